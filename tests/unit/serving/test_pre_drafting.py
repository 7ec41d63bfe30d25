"""Drafts made while the target verifies: no token changes, nothing is lost, nothing is left behind."""

import logging
import threading
import time

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
from serving.metrics import exposition

TARGET = random_table(12, seed=1)
DRAFT = TARGET + random_table(12, seed=2, scale=0.5)
MAKERS = {
    "model": lambda table: ChainDrafter(table(TableModel)),
    "apart": lambda table: ApartChainDrafter(table(TableModel)),
    "head": lambda table: HeadChainDrafter(table(TableHead), most_rows=20000),
}
SETTINGS = {
    "greedy": {"temperature": 0.0},
    "sampled": {"temperature": 0.9, "top_p": 0.9},
    "penalised": {"temperature": 0.9, "repetition_penalty": 1.2},
    "with an end": {"temperature": 0.0, "stop_token_ids": (5,)},
}
THREAD = "pre-draft"


def plain_draft(kind):
    return kind(DRAFT)


def slow_draft(kind):
    """Return a draft that stands still in the thread after two forwards until it is stopped."""

    class Slow(kind):
        num_ahead = 0
        fails = False

        def is_stopped(self):
            return False

        def _work(self):
            if not threading.current_thread().name.startswith(THREAD):
                self.num_ahead = 0
                return
            if self.fails:
                raise RuntimeError("out of memory")
            self.num_ahead += 1
            if self.num_ahead == 3:
                self.is_waiting.set()
                while not self.is_stopped():
                    time.sleep(0.0005)

        def forward(self, batch, ids_T=None):
            self._work()
            return super().forward(batch, ids_T)

        def prefill(self, batch):
            self._work()
            return super().prefill(batch)

        def step(self, batch):
            self._work()
            return super().step(batch)

    made = Slow(DRAFT)
    made.is_waiting = threading.Event()
    return made


class WaitingTarget(TableModel):
    """A target that verifies for as long as `wait` says."""

    def __init__(self, wait):
        super().__init__(TARGET)
        self._wait = wait

    def forward(self, batch, ids_T=None):
        self._wait()
        return super().forward(batch, ids_T)


def make_engine(drafter, *, wait=lambda: None, kv_tokens=20000):
    return Engine(
        WaitingTarget(wait),
        drafter,
        num_draft_tokens=4,
        limits=EngineLimits(kv_bytes=kv_tokens, max_sequences=8, max_waiting=20),
        eos_ids=frozenset(),
    )


def request(name, settings=SETTINGS["greedy"], max_tokens=90):
    params = SamplingParams(max_tokens=max_tokens, **settings)
    return GenerationRequest(str(name), (1, 2 + int(name)), params, seed=int(name))


def finish(engine):
    found = {}
    while engine.has_work:
        for output in engine.step():
            found[output.request_id] = found.get(output.request_id, ()) + output.tokens
    engine.check_idle()
    engine.close()
    assert not [t for t in threading.enumerate() if t.name.startswith(THREAD)]
    return found


def texts(engine, settings=SETTINGS["greedy"], count=1):
    for index in range(count):
        engine.add(request(index, settings, 50 + index))
    return finish(engine)


def patient(drafter):
    """Return an engine whose target verifies until everything ahead is drafted."""
    return make_engine(drafter, wait=drafter.wait)


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_text_and_drafts_are_those_without(make, settings, count):
    """What is ready is what would be drafted: every round drafts and accepts as without."""
    usual = make_engine(make(plain_draft))
    expected = texts(usual, settings, count)
    ahead = PreDrafter(make(plain_draft), least_chance=0.0)
    engine = patient(ahead)
    assert texts(engine, settings, count) == expected == texts(make_engine(None), settings, count)
    assert engine.counters == usual.counters
    assert ahead.counts.late == 0
    if "repetition_penalty" in settings:
        assert ahead.counts.texts == 0
    else:
        assert ahead.counts.used > 0.3 * ahead.counts.asked > 0
        assert 0 < ahead.counts.used_tokens < ahead.counts.tokens


@pytest.mark.parametrize("settings", [SETTINGS["greedy"], SETTINGS["sampled"]])
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_chain_cut_short_is_drafted_on(make, settings):
    """Where verification ends first, the rest of each chain is drafted afterwards, the same."""
    usual = make_engine(make(plain_draft))
    expected = texts(usual, settings, 3)
    drafts = []
    ahead = PreDrafter(
        make(lambda kind: drafts.append(slow_draft(kind)) or drafts[0]), least_chance=0.0
    )
    drafts[0].is_stopped = ahead.drafter.is_stopped

    def wait():
        while ahead.is_working and not drafts[0].is_waiting.wait(0.001):
            pass
        drafts[0].is_waiting.clear()

    engine = make_engine(ahead, wait=wait)
    assert texts(engine, settings, 3) == expected
    assert engine.counters == usual.counters
    assert ahead.counts.late > 0
    assert ahead.counts.used > 0


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_an_error_ends_drafting_ahead_and_nothing_else(make, caplog):
    """The first failure is logged and counted; the texts go on with drafts made in time."""
    drafts = []
    ahead = PreDrafter(
        make(lambda kind: drafts.append(slow_draft(kind)) or drafts[0]), least_chance=0.0
    )
    drafts[0].fails = True
    engine = make_engine(ahead)
    with caplog.at_level(logging.ERROR):
        assert texts(engine, count=3) == texts(make_engine(None), count=3)
    assert ahead.counts.failures == 1
    assert not ahead.is_on
    assert "pre-drafting failed" in caplog.text
    assert engine.counters.accepted_tokens > 0


class HeadThatFailsOnce(TableHead):
    """Fails the first time it takes in true features in the thread, before or after they are kept."""

    has_failed = False

    def __init__(self, *, keeps):
        super().__init__(DRAFT)
        self._keeps = keeps

    def prefill(self, batch):
        in_thread = threading.current_thread().name.startswith(THREAD)
        if not in_thread or self.has_failed:
            return super().prefill(batch)
        self.has_failed = True
        if self._keeps:
            super().prefill(batch)
        raise RuntimeError("out of memory")


@pytest.mark.parametrize("keeps", [True, False])
def test_true_features_outlive_an_error_that_met_them_in_the_thread(keeps):
    """A head whose rows were pending when drafting ahead failed goes on from the same features."""
    head = HeadThatFailsOnce(keeps=keeps)
    ahead = PreDrafter(HeadChainDrafter(head, most_rows=20000), least_chance=0.0)
    assert texts(patient(ahead), count=3) == texts(make_engine(None), count=3)
    assert head.has_failed
    assert ahead.counts.failures == 1


def test_planning_sees_that_nothing_is_ready_any_more():
    """The share of ready drafts falls while texts are served that nothing is drafted ahead of."""
    ahead = PreDrafter(ChainDrafter(TableModel(DRAFT)), least_chance=0.0)
    engine = patient(ahead)
    engine.add(request(0))
    while engine.has_work:
        engine.step()
    before = ahead.ready_fraction
    assert before > 0
    assert texts(engine, SETTINGS["penalised"], count=2)
    assert ahead.ready_fraction < before / 2


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_aborted_texts_give_back_what_was_drafted_ahead(make):
    """A request that leaves between two steps frees its memory at once; others are not touched."""
    ahead = PreDrafter(make(plain_draft), least_chance=0.0)
    engine = patient(ahead)
    for index in range(4):
        engine.add(request(index))
    for _ in range(6):
        engine.step()
    for index in range(3):
        engine.abort(str(index))
    rest = finish(engine)["3"]
    alone = make_engine(None)
    alone.add(request(3))
    assert finish(alone)["3"][-len(rest) :] == rest


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_texts_are_preempted_with_what_was_drafted_ahead(make):
    """Where memory lacks, drafts ahead are left out and counted, and texts stay what they are."""
    settings = SETTINGS["sampled"]
    ahead = PreDrafter(make(plain_draft), least_chance=0.0)
    ahead_engine = make_engine(ahead, wait=ahead.wait, kv_tokens=256)
    assert texts(ahead_engine, settings, 8) == texts(make_engine(None), settings, 8)
    if not isinstance(ahead.drafter, HeadChainDrafter):
        assert ahead.counts.without_room > 0


def test_an_engine_that_fails_leaves_no_thread():
    """A target that breaks while drafts are made ahead breaks the step; closing ends the thread."""
    ahead = PreDrafter(ChainDrafter(TableModel(DRAFT)), least_chance=0.0)
    broken = []

    def wait():
        ahead.wait()
        if ahead.counts.texts:
            broken.append(1)
            raise RuntimeError("broken")

    engine = make_engine(ahead, wait=wait)
    engine.add(request(0))
    with pytest.raises(RuntimeError, match="broken"):
        finish(engine)
    engine.abort("0")
    engine.check_idle()
    engine.close()
    assert broken
    assert not [t for t in threading.enumerate() if t.name.startswith(THREAD)]


def test_unlikely_outcomes_are_not_drafted_behind():
    """Where it is too unlikely that everyone's draft will be ready, nobody's is made."""
    ahead = PreDrafter(ChainDrafter(TableModel(DRAFT)), least_chance=0.9)
    assert texts(patient(ahead), count=8) == texts(make_engine(None), count=8)
    assert ahead.counts.texts == 0


def test_metrics_tell_what_was_drafted_ahead():
    """Counts appear where drafts are made ahead, and nowhere else."""
    ahead = PreDrafter(ChainDrafter(TableModel(DRAFT)), least_chance=0.0)
    engine = patient(ahead)
    texts(engine, count=2)
    lines = exposition(engine, "m").decode().splitlines()
    found = {line.split("{")[0]: float(line.split()[-1]) for line in lines if line[0] != "#"}
    assert found["motley:pre_draft_used_total"] == ahead.counts.used > 0
    assert found["motley:pre_draft_tokens_total"] == ahead.counts.tokens
    assert found["motley:pre_draft_wasted_tokens_total"] == ahead.counts.wasted_tokens > 0
    assert b"pre_draft" not in exposition(make_engine(None), "m")
