"""What holds for every scheduler, whatever happens in whatever order."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scheduling_events import EVERY_SETTINGS, RandomRun

from finetune.scheduling.decisions import Aggregation
from finetune.scheduling.documents import from_document, make_scheduler, to_document

EVERY = pytest.mark.parametrize("name", EVERY_SETTINGS)
KEEPS_LATE = ("fedcompass", "fedbuff", "fedbuff-concurrency", "fedast")
seeds = st.integers(min_value=0, max_value=1 << 32)


def same(scheduler):
    """Return the scheduler itself: an unbroken run."""
    return scheduler


def restored(scheduler):
    """Return what a resumed run reads from its checkpoint."""
    return from_document(json.loads(json.dumps(to_document(scheduler), allow_nan=False)))


@EVERY
@given(seed=seeds)
@settings(max_examples=60)
def test_every_update_counts_exactly_once_or_is_discarded(name, seed):
    """A usable update that was out is merged once or discarded once; others are never merged."""
    run = RandomRun(EVERY_SETTINGS[name], seed)
    run.run(60, same)
    assert set(run.merged) <= run.usable
    assert set(run.merged.values()) <= {1}
    for number in run.usable - set(run.merged):
        assert run.discarded[number] >= 1
    if name in KEEPS_LATE:
        assert set(run.merged) == run.usable
    assert run.scheduler.ledger.num_discarded == run.discarded.total()


@EVERY
@given(seed=seeds)
@settings(max_examples=30)
def test_versions_count_up_one_by_one(name, seed):
    """Each aggregation makes the next version of its adapter; nothing starts from one to come."""
    run = RandomRun(EVERY_SETTINGS[name], seed)
    run.run(60, same)
    made = {}
    for decisions in run.told:
        for decision in decisions:
            if isinstance(decision, Aggregation):
                earlier = made.get(decision.adapter, 0)
                assert decision.version == earlier + 1
                assert all(one.version <= earlier for one in decision.contributions)
                made[decision.adapter] = decision.version


@EVERY
@given(seed=seeds)
@settings(max_examples=30)
def test_a_run_never_stalls(name, seed):
    """As long as clients are present, one of them trains."""
    run = RandomRun(EVERY_SETTINGS[name], seed)

    def checked(scheduler):
        ledger = scheduler.ledger
        assert ledger.is_finished or not ledger.clients or ledger.outstanding or ledger.armed
        return scheduler

    run.run(60, checked)


@EVERY
@given(seed=seeds)
@settings(max_examples=15)
def test_a_run_cut_after_every_event_decides_as_an_unbroken_one(name, seed):
    """The whole state goes through JSON after each event, and the end is the same to the last bit."""
    unbroken, cut = (RandomRun(EVERY_SETTINGS[name], seed) for _ in range(2))
    unbroken.run(50, same)
    cut.run(50, restored)
    assert cut.told == unbroken.told
    assert cut.scheduler == unbroken.scheduler


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: d | {"schema_version": 1}, "has version 1, 2 is known"),
        (lambda d: d | {"kind": "fedsomething"}, "kind 'fedsomething' is unknown"),
        (lambda d: d | {"state": d["state"] | {"num_awaited": "many"}}, "num_awaited"),
        (lambda d: d | {"state": {"settings": d["state"]["settings"]}}, "lacks fields"),
        (lambda d: d | {"state": d["state"] | {"more": 1}}, "unknown"),
    ],
)
def test_a_damaged_document_is_refused(damage, message):
    """Nothing begins anew without a word because a field is missing."""
    document = to_document(make_scheduler(EVERY_SETTINGS["synchronous"]))
    with pytest.raises(ValueError, match=message):
        from_document(damage(document))
