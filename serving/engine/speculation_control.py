"""How much to draft at the present load and acceptance: the planner's answer, kept while it holds."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from planner.drafting.acceptance_estimate import AcceptanceEstimate
from planner.drafting.candidate import Candidate, Load, Overlap
from planner.drafting.draft_tree import Acceptance
from planner.speculation import SpeculationPlan, plan_speculation
from serving.engine.draft_tree import ROOT, DraftTree
from serving.engine.drafting_policy import DraftSize, StepLoad
from serving.engine.round_costs import RoundCosts

logger = logging.getLogger(__name__)

NO_DRAFTS = DraftSize(0, 0)

_MOST_OTHER_ROWS = 512
"""Prompt rows that are told apart; more of them are planned for as so many."""
_MIN_SPEED_UP = 1.02
"""What drafting must gain: below lies the noise of the measurements."""
_EQUAL = 1.02
"""Factor within which speeds are equal: of those the fewest rows are drafted. What a long draft gains
comes from few sequences, which then end early and leave the others to smaller steps."""
_STEPS_OF_A_PLAN = 16
"""Steps after which plans are made anew: acceptance has moved, yet planning is below 1 % of the
steps' time, 0.3 ms for chains of up to 8. For trees, at 2.5 ms for 4x16, four times as many."""
_SHARE_WEIGHT = 0.05
"""Of a step, in the average share of the sequences asked for a draft that had one."""
_IDLE_SHARE_WEIGHT = 0.0005
"""Of a step without drafts, in its way back to all of them: they are tried again."""
_FIRST_CHANCE = 0.8
"""Acceptance of a drafter that nothing is known of, all ranks together: high, so it is tried."""
_CHANCE_OF_LATER_RANKS = 0.4
"""Of each rank's chance, what the next one has."""


class SpeculationControl:
    """The planner behind `DraftingPolicy`: plans for each load, remade as acceptance moves.

    Acceptance is averaged by depth and rank. Depths that are not tried drift back to a high first
    guess: so deeper drafts, and drafting at all where it is off, are tried again now and then, for
    as few rounds as it takes to see that they do not pay. Everything follows from the order of
    calls, nothing from a clock.
    """

    def __init__(
        self,
        costs: RoundCosts,
        *,
        device: str,
        most: DraftSize,
        beam_width: int = 1,
        ready_fraction: Callable[[], float] | None = None,
    ) -> None:
        """Plan with measured costs.

        Args:
            costs: Of rounds on this machine.
            device: Where the draft runs, for the log.
            most: What the drafter may be asked for at most.
            beam_width: Children of a node that it may offer; 1 drafts chains.
            ready_fraction: Tells the present share of drafts that pre-drafting has ready, each of
                which is taken to be free; None where nothing is drafted ahead.
        """
        self._ready_fraction = ready_fraction
        self._costs = costs
        self._device = device
        self._most = most
        self._beam_width = beam_width
        self._estimate = AcceptanceEstimate(first_acceptance(most.depth, beam_width))
        self._num_steps = 0
        self._steps_of_a_plan = _STEPS_OF_A_PLAN if beam_width == 1 else 4 * _STEPS_OF_A_PLAN
        self._share = 1.0
        self._num_asked = self._num_drafted = 0
        self._plans: dict[StepLoad, DraftSize] = {}
        self._last: dict[StepLoad, DraftSize] = {}
        shape = [[0] * beam_width for _ in range(most.depth)]
        self._tried = shape
        self._accepted = [list(ranks) for ranks in shape]
        self.num_plans = 0
        """Plans made since start."""
        self.num_changes = 0
        """Plans that differ from the last one for the same load."""

    @property
    def acceptance(self) -> Acceptance:
        """Present averages by depth and rank, of the sequences that are asked for a draft.

        One for which the drafter finds nothing counts as one whose first token is refused; what its
        rows would cost is saved (`drafted_fraction`).
        """
        first, *others = self._estimate.acceptance
        return (tuple(self._share * chance for chance in first), *others)

    def size(self, load: StepLoad) -> DraftSize:
        """Return the size that pays best at a load."""
        if load.num_decoding == 0:
            return NO_DRAFTS
        key = StepLoad(load.num_decoding, _rounded_up(load.num_prompt_rows))
        size = self._plans.get(key)
        if size is None:
            size = self._plans[key] = self._plan(key)
        self._num_asked = load.num_decoding if size.num_drafts else 0
        return size

    def observe(self, tree: DraftTree, accepted: Sequence[int]) -> None:
        """Count the tokens that were reached: children of an accepted node, and which one stayed."""
        self._num_drafted += 1
        children = tree.children
        parent = ROOT
        for depth, node in enumerate([*accepted, None][: self._most.depth]):
            for child in children[parent + 1]:
                rank = tree.ranks[child]
                if rank < self._beam_width:
                    self._tried[depth][rank] += 1
                    self._accepted[depth][rank] += child == node
            if node is None:
                break
            parent = node

    def end_step(self) -> None:
        """Average in what was counted; now and then forget the plans, so that they follow it."""
        self._estimate = self._estimate.updated(tried=self._tried, accepted=self._accepted)
        for counts in (*self._tried, *self._accepted):
            counts[:] = [0] * len(counts)
        if self._num_asked:
            # Who was admitted in this very step drafts too, unasked.
            share = min(1.0, self._num_drafted / self._num_asked)
            self._share += _SHARE_WEIGHT * (share - self._share)
        else:
            self._share += _IDLE_SHARE_WEIGHT * (1 - self._share)
        self._num_asked = self._num_drafted = 0
        self._num_steps += 1
        if self._num_steps % self._steps_of_a_plan == 0:
            self._plans.clear()

    def _plan(self, step: StepLoad) -> DraftSize:
        fraction = drafted_fraction(self._share, step.num_decoding)
        load = Load(step.num_decoding, step.num_prompt_rows, fraction)
        most_rows = load.rows(self._most.num_drafts + 1)
        place = self._costs.draft_place(step.num_decoding, device=self._device)
        overlap = None
        if self._ready_fraction is not None:
            place = replace(place, is_apart=True)
            overlap = Overlap(ready_fraction=self._ready_fraction())
        plan = plan_speculation(
            self._costs.target_curve(step.num_decoding, most_rows=most_rows),
            [place],
            self.acceptance,
            load=load,
            overlap=overlap,
            min_speed_up=_MIN_SPEED_UP,
            most_rows=self._most.num_drafts + 1,
        )
        self.num_plans += 1
        before = self._last.get(step)
        size = _size(_settled(plan, before))
        if size != before:
            self.num_changes += 1
            self._last[step] = size
            logger.info(
                "speculation num_requests=%d other_rows=%d rows=%d depth=%d acceptance=%s reason=%s",
                step.num_decoding,
                step.num_prompt_rows,
                size.num_drafts + 1,
                size.depth,
                ",".join(f"{sum(ranks):.2f}" for ranks in self.acceptance),
                "; ".join(plan.reasons[1:]),  # the first is the draft's room, which is known
            )
        return size


def drafted_fraction(share: float, num_sequences: int) -> float:
    """Return what of a full round's extra seconds a round costs in which not all have a draft.

    Of one sequence its share of the rounds. In a batch a few long rows cost more than their number:
    an eighth, a quarter and a half of eight sequences with 8 drafts cost 0.22, 0.41 and 0.59 of what
    all of them cost, of four 0.37 and 0.66 (the shipped target in float32, one thread); two chances
    to draft in place of one bound that.

    Args:
        share: Of the sequences that are asked for a draft, those that have one.
        num_sequences: In the step.
    """
    return share if num_sequences == 1 else 1 - (1 - share) ** 2


def first_acceptance(depth: int, beam_width: int) -> Acceptance:
    """Return what is assumed of a drafter at first, by depth and rank."""
    weights = [_CHANCE_OF_LATER_RANKS**rank for rank in range(beam_width)]
    ranks = tuple(_FIRST_CHANCE * weight / sum(weights) for weight in weights)
    return (ranks,) * depth


def _settled(plan: SpeculationPlan, before: DraftSize | None) -> Candidate:
    """Return the fewest rows that are as good as the plan's choice, or one more if in use."""
    equals = [c for c in plan.candidates if _EQUAL * c.speed_up >= plan.chosen.speed_up]
    fewest = min(equals, key=lambda candidate: (candidate.rows, -candidate.speed_up))
    used = next((c for c in equals if _size(c) == before), fewest)
    return used if used.rows <= fewest.rows + 1 else fewest


def _size(candidate: Candidate) -> DraftSize:
    return DraftSize(candidate.rows - 1, candidate.depth)


def _rounded_up(num_rows: int) -> int:
    """Return a power of two, so that a few plans do for every length of prompt."""
    return min(_MOST_OTHER_ROWS, 1 << (num_rows - 1).bit_length()) if num_rows else 0
