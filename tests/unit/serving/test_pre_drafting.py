"""Drafts made while the target verifies: no token changes, nothing is lost, nothing is left behind."""

import pytest
from toy_head import TableHead
from toy_model import TableModel, random_table

from serving.engine.apart_drafter import ApartChainDrafter
from serving.engine.engine import Engine, EngineLimits
from serving.engine.head_drafter import HeadChainDrafter
from serving.engine.model_drafter import ChainDrafter
from serving.engine.pre_drafting import PreDrafter
from serving.engine.sampling import SamplingParams
from serving.engine.sequence import GenerationRequest

TARGET = random_table(12, seed=1)
DRAFT = TARGET + random_table(12, seed=2, scale=0.5)
MAKERS = {
    "chain": lambda: ChainDrafter(TableModel(DRAFT)),
    "head": lambda: HeadChainDrafter(TableHead(DRAFT), most_rows=20000),
    "apart": lambda: ApartChainDrafter(TableModel(DRAFT)),
}
SETTINGS = {
    "greedy": {"temperature": 0.0},
    "sampled": {"temperature": 0.9, "top_p": 0.9},
    "penalised": {"temperature": 0.9, "repetition_penalty": 1.2},
    "with an end": {"temperature": 0.0, "stop_token_ids": (5,)},
}


class WaitingTarget(TableModel):
    """A target that takes so long that drafts ahead are done; every call is the same work."""

    def __init__(self, logits, wait=lambda: None):
        super().__init__(logits)
        self._wait = wait

    def forward(self, batch, ids_T=None):
        self._wait()
        return super().forward(batch, ids_T)

    def forward_with_features(self, batch):
        self._wait()
        return super().forward_with_features(batch)


def make_engine(drafter, *, target=None, num_drafts=4, kv_tokens=20000):
    return Engine(
        target or TableModel(TARGET),
        drafter,
        num_draft_tokens=num_drafts,
        limits=EngineLimits(kv_bytes=kv_tokens, max_sequences=8, max_waiting=20),
        eos_ids=frozenset(),
    )


def request(name, settings, max_tokens=90):
    params = SamplingParams(max_tokens=max_tokens, **settings)
    return GenerationRequest(str(name), (1, 2 + int(name)), params, seed=int(name))


def texts(engine, settings, count):
    for index in range(count):
        engine.add(request(index, settings, 90 + index))
    found = {}
    while engine.has_work:
        for output in engine.step():
            found[output.request_id] = found.get(output.request_id, ()) + output.tokens
    engine.check_idle()
    return found


def wait_for(drafter):
    """Return a wait until the drafts ahead are made."""

    def wait():
        if drafter._work is not None:
            drafter._work.exception()

    return wait


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_the_text_is_the_one_without(make, settings, count):
    """Alone and in a batch, whatever was ready in time."""
    plain = texts(make_engine(None), settings, count)
    ahead = PreDrafter(make(), least_chance=0.0)
    engine = make_engine(ahead, target=WaitingTarget(TARGET, wait_for(ahead)))
    assert texts(engine, settings, count) == plain
    ahead.close()
    reads_history = "repetition_penalty" in settings
    assert (ahead.counts.used == 0) == reads_history
    assert engine.counters.accepted_tokens > 0


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("settings", [SETTINGS["greedy"], SETTINGS["sampled"]])
def test_drafts_are_the_ones_made_without(make, settings):
    """What is ready is what would be drafted: the counts of every round are the same."""
    usual = make_engine(make())
    texts(usual, settings, 3)
    ahead = PreDrafter(make(), least_chance=0.0)
    engine = make_engine(ahead, target=WaitingTarget(TARGET, wait_for(ahead)))
    texts(engine, settings, 3)
    ahead.close()
    assert engine.counters == usual.counters
    assert ahead.counts.used > 0.3 * ahead.counts.asked
    assert ahead.counts.late == 0
