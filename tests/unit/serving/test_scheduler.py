"""Fair order, preemption and admission by pages, over models that are tables."""

import random

import pytest
from toy_model import TableModel, random_table

from serving.engine.engine import Engine, EngineLimits
from serving.engine.model_drafter import ChainDrafter
from serving.engine.sampling import SamplingParams
from serving.engine.sequence import GenerationRequest

PAGE = 64


def make_engine(*, pages: int, drafted=True, **limits) -> Engine:
    return Engine(
        TableModel(random_table(8, seed=3)),
        ChainDrafter(TableModel(random_table(8, seed=4))) if drafted else None,
        num_draft_tokens=3,
        limits=EngineLimits(kv_bytes=pages * PAGE, max_waiting=10_000, **limits),
        eos_ids=frozenset(),
    )


def request(name, num_prompt: int, max_tokens: int, *, seed: int = 0, temperature: float = 0):
    rng = random.Random(f"{name}")
    prompt = tuple(rng.randrange(8) for _ in range(num_prompt))
    params = SamplingParams(max_tokens=max_tokens, temperature=temperature)
    return GenerationRequest(str(name), prompt, params, seed)


def finish(engine: Engine) -> dict[str, tuple[int, ...]]:
    texts: dict[str, tuple[int, ...]] = {}
    for output in _all_outputs(engine):
        texts[output.request_id] = texts.get(output.request_id, ()) + output.tokens
    engine.check_idle()
    return texts


def test_a_long_prompt_does_not_stall_running_streams():
    """While it is computed chunk by chunk, every running stream has a token in every step."""
    engine = make_engine(pages=100, max_sequences=4, max_prefill_rows=32, drafted=False)
    for name in "ab":
        engine.add(request(name, 3, 200))
    engine.step()
    engine.add(request("long", 1000, 1))
    for _ in range(1000 // 32):
        assert {output.request_id for output in engine.step()} == {"a", "b"}
    assert {output.request_id for output in engine.step()} == {"a", "b", "long"}


def test_prompts_share_the_budget_in_order_of_arrival():
    """The older prompt has its whole chunk first; what is left goes to the next."""
    engine = make_engine(pages=100, max_sequences=4, max_prefill_rows=100, drafted=False)
    for name, length in (("first", 150), ("second", 100), ("third", 60)):
        engine.add(request(name, length, 1))
    done = [[output.request_id for output in engine.step()] for _ in range(4)]
    assert done == [[], ["first"], ["second"], ["third"]]


@pytest.mark.parametrize(("drafted", "temperature"), [(True, 0.0), (False, 1.0)])
def test_where_pages_lack_the_newest_waits_and_no_text_changes(drafted, temperature):
    """Preempted requests begin anew in front of the queue."""
    requests = [request(index, 40, 120, temperature=temperature) for index in range(6)]
    plenty = make_engine(pages=100, max_sequences=6, drafted=drafted)
    scarce = make_engine(pages=6, max_sequences=6, drafted=drafted)
    for engine in (plenty, scarce):
        for one in requests:
            engine.add(one)
    texts = finish(scarce)
    assert texts == finish(plenty)
    assert scarce.num_preemptions > 0
    assert plenty.num_preemptions == 0


def test_drafts_are_cut_before_anyone_is_preempted():
    """A request that fills the memory to its last token finishes, with fewer drafts at its end."""
    engine = make_engine(pages=2, max_sequences=2)
    engine.add(request("a", 100, 28))
    assert len(finish(engine)["a"]) == 28
    assert engine.num_preemptions == 0


def test_a_sequence_goes_without_a_draft_where_the_drafts_pages_lack():
    """The text is the same, and the drafts not made are counted."""
    texts = []
    for num_held in (0, 99):
        engine = make_engine(pages=100, max_sequences=2)
        held = engine._draft_pool.take(num_held)
        engine.add(request("a", 50, 40))
        texts.append([token for output in _all_outputs(engine) for token in output.tokens])
        assert (engine.num_drafts_without_room > 0) == (num_held > 0)
        engine._draft_pool.pages.give_back(held)
        engine.check_idle()
    assert texts[0] == texts[1]


def _all_outputs(engine: Engine) -> list:
    outputs = []
    while engine.has_work:
        outputs += engine.step()
    return outputs


def test_a_repeated_prompt_is_computed_once():
    """The second request computes only what no full page holds, and is counted so."""
    engine = make_engine(pages=100, max_sequences=4, max_prefill_rows=50)
    texts = []
    for num_silent in (3, 0):
        engine.add(request("same", 200, 1))
        assert all(engine.step() == [] for _ in range(num_silent))
        texts.append(engine.step()[0].tokens)
    assert texts[0] == texts[1]
    assert (engine.kv_pages.query_tokens, engine.kv_pages.hit_tokens) == (400, 192)
    engine.check_idle()


@pytest.mark.parametrize("seed", range(3))
def test_after_thousands_of_requests_with_aborts_all_pages_are_free(seed):
    """Random arrivals, lengths and aborts under scarce memory: nobody starves, nothing leaks."""
    rng = random.Random(seed)
    engine = make_engine(pages=9, max_sequences=5, max_prefill_rows=70)
    alive: set[str] = set()
    num_added = num_finished = num_aborted = 0
    while num_added < 1000 or engine.has_work:
        while num_added < 1000 and engine.num_waiting < 4:
            one = request(num_added % 50, rng.randint(1, 200), rng.randint(1, 60))
            one = GenerationRequest(str(num_added), one.prompt, one.params, num_added)
            engine.add(one)
            alive.add(one.request_id)
            num_added += 1
        if alive and rng.random() < 0.1:
            name = rng.choice(sorted(alive))
            engine.abort(name)
            alive.remove(name)
            num_aborted += 1
        for output in engine.step():
            if output.finish_reason:
                alive.remove(output.request_id)
                num_finished += 1
    assert num_finished + num_aborted == 1000
    assert engine.num_preemptions > 0
    assert engine.kv_pages.hit_tokens > 0
    engine.check_idle()
