import pytest
import torch
from toy_model import TableModel, random_table

from serving.engine.engine import Engine, EngineLimits
from serving.engine.model_drafter import ChainDrafter
from serving.engine.sampling import SamplingParams
from serving.engine.sequence import GenerationRequest
from serving.errors import ContextLengthError, NotFoundError, OverloadedError, RequestError

VOCABULARY = 8


def make_engine(*, eos=(), kv_tokens=1000, max_sequences=4, max_waiting=10, rows=512) -> Engine:
    return Engine(
        TableModel(random_table(VOCABULARY, seed=3)),
        ChainDrafter(TableModel(random_table(VOCABULARY, seed=4))),
        num_draft_tokens=3,
        limits=EngineLimits(
            kv_bytes=kv_tokens,
            max_sequences=max_sequences,
            max_waiting=max_waiting,
            max_prefill_rows=rows,
        ),
        eos_ids=frozenset(eos),
    )


def request(name="a", *, prompt=(1, 2), max_tokens=9, **fields) -> GenerationRequest:
    params = SamplingParams(max_tokens=max_tokens, temperature=0, **fields)
    return GenerationRequest(name, tuple(prompt), params, seed=0)


def finish(engine: Engine) -> dict[str, tuple[tuple[int, ...], str]]:
    texts: dict[str, tuple[int, ...]] = {}
    reasons: dict[str, str] = {}
    for _ in range(1000):
        if not engine.has_work:
            break
        for output in engine.step():
            texts[output.request_id] = texts.get(output.request_id, ()) + output.tokens
            if output.finish_reason:
                reasons[output.request_id] = output.finish_reason
    assert not engine.has_work
    return {name: (text, reasons[name]) for name, text in texts.items()}


def test_max_tokens_is_exact_even_in_the_middle_of_a_round():
    """A round that would emit more than is left is cut, and the reason is length."""
    for max_tokens in range(1, 12):
        engine = make_engine()
        engine.add(request(max_tokens=max_tokens))
        text, reason = finish(engine)["a"]
        assert (len(text), reason) == (max_tokens, "length")


def test_an_end_of_text_token_ends_the_answer_and_hides_what_follows():
    """Tokens accepted behind the end of text are neither emitted nor counted."""
    engine = make_engine()
    engine.add(request(max_tokens=30))
    free, _ = finish(engine)["a"]
    eos = free[4]
    engine = make_engine(eos=[eos])
    engine.add(request(max_tokens=30))
    text, reason = finish(engine)["a"]
    assert text == free[: free.index(eos) + 1]
    assert reason == "stop"
    assert engine.counters.generation_tokens == len(text)


def test_ignore_eos_goes_on():
    """With ignore_eos the end of text is a token like others."""
    engine = make_engine(eos=range(VOCABULARY))
    engine.add(request(max_tokens=12, ignore_eos=True))
    text, reason = finish(engine)["a"]
    assert (len(text), reason) == (12, "length")


def test_a_chunked_prompt_gives_the_same_answer():
    """The prompt's share of a step does not change the text."""
    prompt = [i % VOCABULARY for i in range(50)]
    texts = set()
    for rows in (1, 7, 49, 50, 512):
        engine = make_engine(rows=rows)
        engine.add(request(prompt=prompt))
        texts.add(finish(engine)["a"])
    assert len(texts) == 1


def test_more_requests_than_room_all_finish_in_order_of_arrival():
    """Waiting requests are admitted as memory frees, first come first served."""
    engine = make_engine(kv_tokens=64, max_sequences=2)
    for index in range(6):
        engine.add(request(str(index)))
    done: list[str] = []
    while engine.has_work:
        done += [o.request_id for o in engine.step() if o.finish_reason]
    assert done == sorted(done)
    assert len(done) == 6


def test_abort_frees_memory_at_once():
    """An aborted request leaves room for the next in the same step, running or waiting."""
    engine = make_engine(max_sequences=1)
    engine.add(request("a", max_tokens=500))
    engine.add(request("b"))
    engine.add(request("c"))
    engine.step()
    engine.abort("a")
    engine.abort("b")
    engine.abort("unknown")
    assert set(finish(engine)) == {"c"}
    assert engine.num_running == engine.num_waiting == 0


def test_what_can_never_fit_is_refused_with_the_numbers():
    """Context and KV memory are checked when the request arrives."""
    with pytest.raises(ContextLengthError, match=r"context of 960 \(KV memory holds 960"):
        make_engine().add(request(max_tokens=999))
    with pytest.raises(ContextLengthError, match="context of 4096"):
        make_engine(kv_tokens=10_000).add(request(max_tokens=4095))


def test_a_full_queue_is_refused():
    """One request more than the queue holds is refused at once."""
    engine = make_engine(max_waiting=1, max_sequences=2)
    for name in ("runs", "runs too", "waits"):
        engine.add(request(name))
    with pytest.raises(OverloadedError):
        engine.add(request("one too many"))


def test_an_idle_engine_without_a_queue_takes_what_it_can_run():
    """With no places to wait, requests are still taken up to what runs at once."""
    engine = make_engine(max_waiting=0, max_sequences=1)
    engine.add(request("runs"))
    with pytest.raises(OverloadedError):
        engine.add(request("waits"))
    assert set(finish(engine)) == {"runs"}


def test_an_unknown_adapter_is_refused():
    """A request for an adapter that is not loaded never starts."""
    bad = GenerationRequest("a", (1,), SamplingParams(max_tokens=1), 0, adapter_name="nope")
    with pytest.raises(NotFoundError, match="nope"):
        make_engine().add(bad)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_end_their_request_alone(bad, temperature):
    """No token is made up: the request fails and is counted; the one beside it is answered."""
    table = torch.full((VOCABULARY, VOCABULARY), -torch.inf)
    table[range(VOCABULARY), [1, 2, 3, 0, 5, 6, 7, 7]] = 0.0  # each row allows one token
    table[6] = bad
    limits = EngineLimits(kv_bytes=1000, max_sequences=4, max_waiting=4)
    drafter = ChainDrafter(TableModel(random_table(VOCABULARY, seed=4)))
    engine = Engine(
        TableModel(table), drafter, num_draft_tokens=3, limits=limits, eos_ids=frozenset()
    )
    params = SamplingParams(max_tokens=6, temperature=temperature)
    engine.add(GenerationRequest("sound", (0,), params, seed=0))
    engine.add(GenerationRequest("broken", (4,), params, seed=0))
    outputs = []
    while engine.has_work:
        outputs += engine.step()
    texts = {
        name: [t for o in outputs if o.request_id == name for t in o.tokens]
        for name in ("sound", "broken")
    }
    assert texts["sound"] == [1, 2, 3, 0, 1, 2]
    assert texts["broken"] in ([5], [5, 6])
    errors = {output.request_id: str(output.error) for output in outputs if output.error}
    assert errors.keys() == {"broken"}
    assert "the model computed logits that are not finite" in errors["broken"]
    assert engine.counters.failed_requests == 1


def test_a_draft_into_logits_that_are_not_finite_fails_nothing():
    """Only rows that decide what is emitted can fail a request, not where a wrong guess led."""
    table = torch.full((VOCABULARY, VOCABULARY), -torch.inf)
    table[range(VOCABULARY), [1, 0, 0, 0, 0, 0, 0, 0]] = 0.0
    table[5] = float("nan")
    misleading = torch.full((VOCABULARY, VOCABULARY), -9.0)
    misleading[:, 5] = 9.0
    for temperature in (0.0, 1.0):
        engine = Engine(
            TableModel(table),
            ChainDrafter(TableModel(misleading)),
            num_draft_tokens=3,
            limits=EngineLimits(kv_bytes=1000, max_sequences=1, max_waiting=1),
            eos_ids=frozenset(),
        )
        params = SamplingParams(max_tokens=6, temperature=temperature)
        engine.add(GenerationRequest("a", (0,), params, seed=0))
        assert finish(engine)["a"] == ((1, 0, 1, 0, 1, 0), "length")


def test_a_request_that_bans_every_token_the_model_allows_fails_alone():
    """Nothing is made up where the bans leave no token."""
    table = torch.full((VOCABULARY, VOCABULARY), -torch.inf)
    table[:, 3] = 0.0
    limits = EngineLimits(kv_bytes=1000, max_sequences=1, max_waiting=1)
    for temperature in (0.0, 1.0):
        engine = Engine(
            TableModel(table), None, num_draft_tokens=1, limits=limits, eos_ids=frozenset()
        )
        params = SamplingParams(max_tokens=6, temperature=temperature, bad_token_ids=(3,))
        engine.add(GenerationRequest("a", (0,), params, seed=0))
        assert [bool(output.error) for output in engine.step()] == [True]
        assert not engine.has_work


def test_a_stop_token_ends_the_answer_even_where_the_models_own_end_is_ignored():
    """The request's stop ids end its text; min_tokens keeps them out until then."""
    engine = make_engine()
    engine.add(request(max_tokens=30))
    free, _ = finish(engine)["a"]
    engine = make_engine(eos=[free[0]])
    engine.add(request(max_tokens=30, ignore_eos=True, stop_token_ids=(free[4],)))
    assert finish(engine)["a"] == (free[: free.index(free[4]) + 1], "stop")
    engine = make_engine()
    engine.add(request(max_tokens=30, stop_token_ids=tuple(range(7)), min_tokens=6))
    text, _ = finish(engine)["a"]
    assert set(text[:6]) == {7}


def test_ids_the_model_does_not_have_are_refused():
    """The message names the field and the id."""
    with pytest.raises(RequestError, match="logit_bias holds token 8; ids go from 0 to 7"):
        make_engine().add(request(logit_bias={8: 1.0}))


PROCESSED = [
    {"repetition_penalty": 1.5},
    {"frequency_penalty": 1.2, "presence_penalty": -0.5},
    {"min_tokens": 9, "stop_token_ids": (1, 2)},
    {"logit_bias": {3: 4.0}, "bad_token_ids": (0,)},
]


@pytest.mark.parametrize("fields", PROCESSED, ids=str)
def test_greedy_text_of_processed_logits_does_not_depend_on_drafting(fields):
    """Each verified row is processed with the tokens before that very row."""
    plain = Engine(
        TableModel(random_table(VOCABULARY, seed=3)),
        None,
        num_draft_tokens=1,
        limits=EngineLimits(kv_bytes=1000, max_sequences=4, max_waiting=4),
        eos_ids=frozenset(),
    )
    drafted = make_engine()
    for engine in (plain, drafted):
        for name, prompt in (("a", (1, 2)), ("b", (5,))):
            engine.add(request(name, prompt=prompt, max_tokens=25, **fields))
    assert finish(plain) == finish(drafted)
