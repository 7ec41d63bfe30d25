"""A head's drafts in the engine: what it is told, what it keeps, and what it gives back.

`TableHead` checks every row it is given.
"""

import pytest
import torch
from toy_head import TableHead
from toy_model import TableModel, random_table

import serving.engine.head_drafter as drafter_module
from serving.engine.drafter import Drafter
from serving.engine.engine import Engine, EngineLimits
from serving.engine.head_cache import HeadCache
from serving.engine.head_drafter import HeadChainDrafter
from serving.engine.head_tree_drafter import HeadTreeDrafter
from serving.engine.sampling import SamplingParams
from serving.engine.sequence import GenerationRequest

TARGET = random_table(6, seed=1)
DRAFT = TARGET + 0.25 * random_table(6, seed=2)
NUM_DRAFTS = 7
MAKERS = {
    "chain": lambda head, most_rows: HeadChainDrafter(head, most_rows=most_rows),
    "tree": lambda head, most_rows: HeadTreeDrafter(
        head, most_rows=most_rows, beam_width=2, depth=4
    ),
}


def make_engine(
    drafter: Drafter | None, *, kv_tokens: int = 4000, prefill_rows: int = 512
) -> Engine:
    limits = EngineLimits(
        kv_bytes=kv_tokens, max_sequences=8, max_waiting=50, max_prefill_rows=prefill_rows
    )
    return Engine(
        TableModel(TARGET), drafter, num_draft_tokens=NUM_DRAFTS, limits=limits, eos_ids=frozenset()
    )


def request(name: object, prompt=(1, 2), max_tokens=40, **fields) -> GenerationRequest:
    params = SamplingParams(max_tokens=max_tokens, **({"temperature": 0} | fields))
    return GenerationRequest(str(name), tuple(prompt), params, seed=int(str(name)))


def finish(engine: Engine) -> dict[str, tuple[int, ...]]:
    texts: dict[str, tuple[int, ...]] = {}
    while engine.has_work:
        for output in engine.step():
            texts[output.request_id] = texts.get(output.request_id, ()) + output.tokens
    engine.check_idle()
    return texts


def prompt_of(length: int) -> tuple[int, ...]:
    return tuple(index * index % 6 for index in range(length))


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_batch_has_the_plain_text_and_memory_comes_back(make):
    """Long and short prompts in chunks, penalties, and drafts of every length at the end."""
    requests = [
        request(0, prompt_of(300)),
        request(1, max_tokens=1),
        request(2, max_tokens=2),
        request(3, max_tokens=3, repetition_penalty=1.5),
        request(4, prompt_of(90), frequency_penalty=0.4, logit_bias={2: 1.5}),
        request(5, min_tokens=30, stop_token_ids=(3,)),
    ]
    texts = []
    drafter = make(TableHead(DRAFT), 4000)
    for engine in (make_engine(None), make_engine(drafter, prefill_rows=50)):
        for each in requests:
            engine.add(each)
        texts.append(finish(engine))
    assert texts[0] == texts[1]
    assert engine.counters.accepted_tokens > 0
    assert drafter.memory.num_taken == 0
    assert drafter.num_without_room == 0


def test_a_tree_of_one_path_is_the_chain():
    """A beam of one and a chosen chain draft the same tokens."""
    lengths = []
    for drafter in (
        HeadChainDrafter(TableHead(DRAFT), most_rows=4000),
        HeadTreeDrafter(TableHead(DRAFT), most_rows=4000, beam_width=1, depth=NUM_DRAFTS),
    ):
        engine = make_engine(drafter)
        engine.add(request(0))
        finish(engine)
        lengths.append(engine.counters.accepted_per_position)
    assert lengths[0] == lengths[1]


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_behind_a_shared_prefix_the_head_begins_where_features_do(make):
    """A second request of the same beginning drafts from the first feature that was computed."""
    head = TableHead(DRAFT)
    engine = make_engine(make(head, 4000))
    texts = []
    for name in (0, 1):
        engine.add(request(name, prompt_of(200)))
        texts += finish(engine).values()
        accepted = engine.counters.accepted_tokens
    assert texts[0] == texts[1]
    assert head.first_positions == [0, 192]
    assert accepted > 0


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_device_without_memory_costs_drafts_and_nothing_else(make, monkeypatch, caplog):
    """The text is the plain one, each draft not made is counted, one line says why."""
    grow = HeadCache.grow
    asked = []

    def grow_a_little(cache, capacity_rows):
        asked.append(capacity_rows)
        if 2 < len(asked) < 9:
            raise torch.OutOfMemoryError("out of memory. Tried to allocate 20 MiB")
        grow(cache, capacity_rows)

    monkeypatch.setattr(HeadCache, "grow", grow_a_little)
    texts = []
    drafter = make(TableHead(DRAFT), 4000)
    for engine in (make_engine(None), make_engine(drafter)):
        for name in range(3):
            engine.add(request(name, (name, 1), max_tokens=100))
        texts.append(finish(engine))
    assert texts[0] == texts[1]
    assert len(asked) > 9, "drafting goes on once there is memory"
    assert drafter.num_without_room == 3, "each was tried at two sizes"
    assert engine.counters.accepted_tokens > 0
    assert drafter.memory.num_taken == 0
    assert [r.message.count("out of memory") for r in caplog.records] == [1]


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_preempted_sequences_begin_again(make):
    """Where pages lack, texts stay as they are and each readmission has a cache of its own."""
    plain = make_engine(None)
    head = TableHead(DRAFT)
    drafter = make(head, 4000)
    crowded = make_engine(drafter, kv_tokens=64 * 5)
    for engine in (plain, crowded):
        for name in range(6):
            engine.add(request(name, (name % 6, 1), max_tokens=100, temperature=0.0))
    assert finish(plain) == finish(crowded)
    assert crowded.num_preemptions > 0
    assert len(head.first_positions) > 6
    assert drafter.memory.num_taken == 0


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_an_aborted_request_gives_its_memory_back_at_once(make):
    """Nothing waits for the request's end."""
    drafter = make(TableHead(DRAFT), 4000)
    engine = make_engine(drafter)
    engine.add(request(0, max_tokens=500))
    for _ in range(5):
        engine.step()
    assert drafter.memory.num_taken > 0
    engine.abort("0")
    assert drafter.memory.num_taken == 0
    engine.check_idle()


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_without_memory_for_caches_texts_go_on_undrafted(make):
    """Drafts that found no room are counted; sequences that found room keep drafting."""
    plain, drafter = make_engine(None), make(TableHead(DRAFT), 64 * 3)
    engine = make_engine(drafter)
    for each in (plain, engine):
        for name in range(8):
            each.add(request(name, prompt_of(20 + name), max_tokens=60))
    assert finish(plain) == finish(engine)
    assert engine.num_drafts_without_room > 0
    assert engine.counters.accepted_tokens > 0
    assert drafter.memory.num_taken == 0


def test_a_long_prompt_reaches_the_head_while_it_is_computed(monkeypatch):
    """Features wait up to a limit; behind it the head takes them in although nothing is drafted."""
    monkeypatch.setattr(drafter_module, "MOST_PENDING_ROWS", 64)
    rows: list[int] = []

    class Recording(TableHead):
        def prefill(self, batch):
            rows.extend(len(part.tokens) for part in batch)
            return super().prefill(batch)

    engine = make_engine(HeadChainDrafter(Recording(DRAFT), most_rows=4000), prefill_rows=32)
    engine.add(request(0, prompt_of(320), max_tokens=8))
    finish(engine)
    assert rows[:5] == [64] * 5


def test_a_draft_that_is_not_finite_changes_nothing():
    """A head that computes NaN, drawn or chosen, drafts in vain and harms no text."""
    broken = torch.full_like(DRAFT, torch.nan)
    for temperature in (0.0, 1.0):
        texts = []
        for make in (None, *MAKERS.values()):
            engine = make_engine(make and make(TableHead(broken), 4000))
            engine.add(request(0, temperature=temperature))
            texts.append(finish(engine))
        assert texts[0] == texts[1] == texts[2]
