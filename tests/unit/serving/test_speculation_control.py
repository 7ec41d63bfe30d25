"""How much is drafted follows the load and what is accepted, and nothing else."""

import logging
import os
import random

import pytest
import torch

from planner.drafting.candidate import DraftPlace
from planner.drafting.cost_curve import CostCurve
from serving.config import ServeConfig
from serving.drafting import best_device, draft_device
from serving.engine.draft_tree import ROOT, DraftTree
from serving.engine.drafting_policy import DraftSize, StepLoad
from serving.engine.round_costs import MeasuredRound, RoundCosts
from serving.engine.speculation_control import NO_DRAFTS, SpeculationControl, drafted_fraction
from serving.errors import ModelError

MOST = DraftSize(8, 8)
ALONE = StepLoad(1, 0)


def costs(*, per_row: float = 0.1, per_depth: float = 0.15, sizes=(1, 2, 4, 8, 16)) -> RoundCosts:
    """Return rounds whose rows are free up to eight, then cost `per_row` of a step each."""
    return RoundCosts(
        tuple(
            MeasuredRound(
                size,
                drafts,
                drafts,
                verify_seconds=1 + per_row * max(0, size * (drafts + 1) - 8),
                draft_seconds=per_depth * drafts,
            )
            for size in sizes
            for drafts in (0, 1, 2, 4, 8)
        )
    )


def make(**fields) -> SpeculationControl:
    return SpeculationControl(costs(**fields), device="cpu", most=MOST)


def run(
    control: SpeculationControl, acceptance: float, num_rounds: int, load: StepLoad = ALONE, seed=0
) -> list[DraftSize]:
    """Draft chains that are accepted token by token with a set chance; return the sizes."""
    rng = random.Random(seed)
    sizes = []
    for _ in range(num_rounds):
        size = control.size(load)
        sizes.append(size)
        for _ in range(load.num_decoding if size.num_drafts else 0):
            tree = DraftTree.chain([1] * size.num_drafts)
            kept = 0
            while kept < len(tree) and rng.random() < acceptance:
                kept += 1
            control.observe(tree, range(kept))
        control.end_step()
    return sizes


def test_a_new_drafter_is_tried():
    """Before anything is known, acceptance counts as high."""
    assert make().size(ALONE).num_drafts > 2


def test_who_is_admitted_in_the_step_may_draft_too():
    """More drafts than sequences that were asked for are no acceptance above one."""
    control = make()
    for _ in range(200):
        size = control.size(ALONE)
        for _ in range(3):
            control.observe(DraftTree.chain([1] * size.num_drafts), range(size.num_drafts))
        control.end_step()
    assert control.size(ALONE).num_drafts > 4


def test_of_sizes_that_are_as_fast_the_smallest_is_drafted():
    """Where each further token costs what it brings, no more of them are drafted than needed."""
    flat = make(per_depth=0.99)
    for _ in range(200):
        size = flat.size(ALONE)
        flat.observe(DraftTree.chain([1] * size.num_drafts), range(size.num_drafts))
        flat.end_step()
    assert flat.size(ALONE) == NO_DRAFTS
    crowded = make(per_depth=0.0, per_row=0.75)
    for _ in range(200):
        size = crowded.size(ALONE)
        crowded.observe(DraftTree.chain([1] * size.num_drafts), range(size.num_drafts))
        crowded.end_step()
    # Nine rows take 1.75 steps: what they bring beyond five of one step is below 2 %.
    assert crowded.size(ALONE).num_drafts == 4


def test_drafts_shrink_as_the_batch_grows():
    """Rows of others fill the forward, so each sequence gets fewer, at last none."""
    control = make()
    sizes = [control.size(StepLoad(count, 0)).num_drafts for count in (1, 2, 4, 8, 16)]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[2] > sizes[-1]


def test_prompt_rows_beside_fill_the_forward_too():
    """A prompt in the step leaves less room than none."""
    control = make(per_row=0.2)
    assert control.size(StepLoad(1, 400)).num_drafts <= control.size(ALONE).num_drafts
    assert control.size(StepLoad(1, 10**6)) == control.size(StepLoad(1, 512))


def test_a_step_in_which_nobody_decodes_drafts_nothing():
    """Prompts alone ask for no plan."""
    control = make()
    assert control.size(StepLoad(0, 300)) == NO_DRAFTS
    assert control.num_plans == 0


def test_depth_follows_what_is_accepted():
    """A good draft goes deeper than a poor one."""
    good, poor = make(), make()
    run(good, 0.9, 400)
    run(poor, 0.4, 400)
    assert good.size(ALONE).depth > poor.size(ALONE).depth
    assert good.acceptance[0][0] == pytest.approx(0.9, abs=0.1)


def test_a_useless_draft_is_switched_off_tried_again_and_stays_off():
    """Of thousands of rounds few draft, and some do."""
    control = make()
    sizes = run(control, 0.02, 6000)
    assert NO_DRAFTS in sizes[:200]
    later = sizes[1000:]
    tries = sum(size.num_drafts > 0 for size in later)
    assert 0 < tries < 0.03 * len(later)
    assert control.num_changes >= 3


def test_drafting_comes_back_when_it_pays_again():
    """After a spell without acceptance, a good draft is found and used."""
    control = make()
    run(control, 0.0, 1000)
    sizes = run(control, 0.85, 4000, seed=1)
    assert all(size.num_drafts > 2 for size in sizes[-500:])


def test_plans_are_kept_for_a_while():
    """A load costs a plan now and then, not one a step."""
    control = make()
    run(control, 0.7, 160)
    assert control.num_plans <= 11


def test_sizes_follow_from_the_order_of_calls_alone():
    """The same observations give the same sizes."""
    assert run(make(), 0.6, 500) == run(make(), 0.6, 500)


def test_sequences_without_a_guess_lower_what_drafting_gains():
    """Where one of eight finds a guess, however good, the batch drafts less, and tries again."""
    crowd, control = StepLoad(8, 0), make(per_row=0.08, per_depth=0.0)
    before = control.size(crowd)
    sizes = []
    for _ in range(4000):
        sizes.append(control.size(crowd))
        if sizes[-1].num_drafts:
            tree = DraftTree.chain([1] * sizes[-1].num_drafts)
            control.observe(tree, range(len(tree)))
        control.end_step()
    assert before.num_drafts > 0
    assert NO_DRAFTS in sizes[:200]
    assert 0 < sum(size.num_drafts > 0 for size in sizes[1000:]) < 600


def found_now_and_then(control: SpeculationControl, load: StepLoad, chance: float) -> DraftSize:
    """Let each sequence find a guess with a chance, all of it right; return the last size."""
    rng = random.Random(3)
    for _ in range(600):
        size = control.size(load)
        for _ in range(load.num_decoding if size.num_drafts else 0):
            if rng.random() < chance:
                tree = DraftTree.chain([1] * size.num_drafts)
                control.observe(tree, range(len(tree)))
        control.end_step()
    return control.size(load)


@pytest.mark.parametrize("num_sequences", [1, 8])
def test_guesses_that_are_rare_and_good_go_on_where_their_own_rows_pay(num_sequences):
    """A round in which a sequence finds nothing costs no rows of it: full rounds would not pay."""
    rounds = [
        MeasuredRound(size, drafts, drafts, verify_seconds=1 + 0.3 * drafts, draft_seconds=0.0)
        for size in (1, 8)
        for drafts in (0, 1, 2, 4, 8)
    ]
    control = SpeculationControl(RoundCosts(tuple(rounds)), device="cpu", most=MOST)
    assert found_now_and_then(control, StepLoad(num_sequences, 0), 0.25).num_drafts > 0
    assert control.acceptance[0][0] < 0.6


def test_a_rounds_extra_cost_falls_with_those_that_draft():
    """Nothing where nobody does, all where all do; more than the rows in a batch, never in one."""
    assert drafted_fraction(0.0, 8) == drafted_fraction(0.0, 1) == 0
    assert drafted_fraction(1.0, 8) == drafted_fraction(1.0, 1) == 1
    assert drafted_fraction(0.25, 1) == 0.25
    assert 0.41 < drafted_fraction(0.25, 8) < 0.5


def test_a_change_of_plan_is_one_line_with_its_reason(caplog):
    """Load, size, acceptance and why; nothing where the plan stays."""
    control = make()
    with caplog.at_level(logging.INFO):
        control.size(ALONE)
        control.size(ALONE)
    (record,) = caplog.records
    assert "num_requests=1" in record.getMessage()
    assert "reason=a chain pays" in record.getMessage()
    assert control.num_changes == 1


def test_trees_are_learnt_by_depth_and_rank():
    """The first of two siblings is refused, the second accepted, and its child refused."""
    control = SpeculationControl(costs(), device="cpu", most=DraftSize(8, 3), beam_width=2)
    tree = DraftTree((5, 6, 7), (ROOT, ROOT, 1), (0, 1, 0))
    before = control.acceptance
    for _ in range(300):
        control.observe(tree, [1])
        control.end_step()
    after = control.acceptance
    assert after[0][0] < before[0][0] / 2
    assert after[0][1] > 0.9 - after[0][0]
    assert after[1][0] < before[1][0] / 2
    size = control.size(ALONE)
    assert size.num_drafts <= 8
    assert size.depth <= 3


CURVE = CostCurve((1, 4, 16), (1.0, 1.1, 1.5))


def place(name: str, seconds: float, *, free: float = 10.0, round_seconds: float = 0.0):
    step = CostCurve((1, 64), (seconds, seconds))
    return DraftPlace(name, free, 5.0, step, round_seconds)


def test_the_draft_goes_where_it_gains_most(caplog):
    """Of two devices the faster with room is chosen, and the log says why."""
    places = [place("cpu:0", 0.2), place("cpu:1", 0.05)]
    with caplog.at_level(logging.INFO):
        assert best_device(CURVE, places, depth=8) == "cpu:1"
    assert "device=cpu:1" in caplog.text
    assert best_device(CURVE, [places[0], place("cpu:1", 0.05, free=1.0)], depth=8) == "cpu:0"
    assert (
        best_device(CURVE, [places[0], place("cpu:1", 0.05, round_seconds=9)], depth=8) == "cpu:0"
    )


def test_a_device_is_named_even_where_drafting_does_not_pay_yet():
    """The least loss: load and acceptance may change."""
    assert best_device(CURVE, [place("a", 30.0), place("b", 20.0)], depth=4) == "b"


def test_a_draft_is_measured_nowhere_where_there_is_one_device_or_none_to_choose():
    """A device that was named is kept, and with one device nothing is loaded to be measured."""
    fields = {"model": "m", "served_model_name": "m", "draft": "d"}
    named = ServeConfig(**fields, draft_device="cuda:7")
    assert draft_device(named, None, load=None) == "cuda:7"
    ngram = ServeConfig(model="m", served_model_name="m", drafter="ngram", draft_device="auto")
    assert draft_device(ngram, None, load=None) == "cpu"


class Sized:
    """A model by its sizes; what a forward of it costs is said beside."""

    def __init__(self, kv_bytes_per_token: int) -> None:
        self.kv_bytes_per_token = kv_bytes_per_token
        self.model = torch.nn.Linear(4, 4)


def choose(seconds: dict[str, float], *, kv_bytes: int = 1 << 20, load=None) -> str:
    """Let two devices of the processor compete, the target on the first."""
    config = ServeConfig(
        model="m", served_model_name="m", draft="d", draft_device="auto", kv_bytes=kv_bytes
    )

    def curve(model, name):
        step = seconds.get(name.removeprefix("draft on "), 1.0)
        return CostCurve((1, 64), (step, step))

    return draft_device(
        config,
        Sized(1 << 10),
        load or (lambda device: Sized(1)),
        devices=("cpu", "cpu:1"),
        curve=curve,
    )


def test_of_two_devices_the_draft_goes_where_its_forward_is_faster():
    """Each is measured with the draft loaded there."""
    assert choose({"cpu": 0.5, "cpu:1": 0.1}) == "cpu:1"
    assert choose({"cpu": 0.1, "cpu:1": 0.5}) == "cpu"


def test_the_targets_own_keys_and_values_take_their_device_from_the_draft():
    """Where they fill it, the draft goes to the slower one."""
    seconds = {"cpu": 0.1, "cpu:1": 0.5}
    assert choose(seconds, kv_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")) == (
        "cpu:1"
    )


def test_a_device_that_does_not_take_the_draft_is_named_in_the_log(caplog):
    """The other one gets it."""

    def load(device):
        if device == "cpu":
            raise ModelError("d: no memory is left")
        return Sized(1)

    assert choose({"cpu": 0.1, "cpu:1": 0.5}, load=load) == "cpu:1"
    assert "no place for the draft device=cpu reason=d: no memory is left" in caplog.text


def test_no_room_anywhere_is_refused():
    """With the needs of each device and what to do."""
    with pytest.raises(ModelError, match=r"no device has room for the draft.*drop --draft"):
        best_device(CURVE, [place("a", 0.1, free=1.0)], depth=4)


def test_drafts_that_are_ready_are_planned_as_free():
    """What is too dear to draft in turn pays where pre-drafting has it ready, alone above all."""
    dear = costs(per_depth=0.9)
    sizes = []
    for ready in (None, lambda: 0.0, lambda: 0.95):
        control = SpeculationControl(dear, device="cpu", most=MOST, ready_fraction=ready)
        sizes.append(run(control, 0.7, 200)[-1])
    assert sizes[0] == sizes[1]
    assert sizes[2].num_drafts > sizes[0].num_drafts
