"""`training-plan.json`: for each global batch its micro-batches, groups and what they should take."""

from typing import Annotated, Literal

from pydantic import Field

from planner.config import StrictModel
from planner.training.cluster import Cluster
from planner.training.placement import Placement
from planner.training.sequence_costs import SequenceCosts
from planner.units import Name, Number, Tokens

Rank = Annotated[int, Field(ge=0)]
Position = Annotated[int, Field(ge=0)]
PlanSeconds = Annotated[Number, Field(ge=0)]
SolverName = Literal["heuristic", "milp"]


class SequenceGroup(StrictModel):
    """Devices that share each of some sequences equally."""

    ranks: tuple[Rank, ...] = Field(min_length=1)
    """Its devices, ascending; as many as the degree."""
    sequences: tuple[Position, ...] = Field(min_length=1)
    """What it trains, as positions in the batch's `lengths`, ascending."""
    predicted_seconds: PlanSeconds
    """Forward, backward and exchanges, from the sequences' own lengths."""

    @property
    def degree(self) -> int:
        """Devices of the group."""
        return len(self.ranks)


class MicroBatch(StrictModel):
    """Groups that train side by side; no device is in two, and some may be in none."""

    groups: tuple[SequenceGroup, ...] = Field(min_length=1)
    """Largest degree first."""

    @property
    def predicted_seconds(self) -> float:
        """Its slowest group's time."""
        return max(group.predicted_seconds for group in self.groups)


class HomogeneousPlan(StrictModel):
    """A plan of groups of one degree, for comparison."""

    degree: Annotated[int, Field(gt=0)]
    """Devices of every group."""
    num_micro_batches: Annotated[int, Field(gt=0)]
    """Micro-batches it needs."""
    predicted_seconds: PlanSeconds
    """Time of the batch."""


class BatchPlan(StrictModel):
    """One global batch: an optimiser step."""

    lengths: tuple[Tokens, ...] = Field(min_length=1)
    """Tokens of each sequence, padding included, in the order of the data."""
    micro_batches: tuple[MicroBatch, ...] = Field(min_length=1)
    """One after the other; gradients add up."""
    predicted_seconds: PlanSeconds
    """Sum over micro-batches."""
    lower_bound_seconds: PlanSeconds
    """No plan of the cost model is faster."""
    solver: SolverName
    """Whose plan it is: `milp` only where it improved on the heuristic."""
    planning_seconds: PlanSeconds
    """How long it was looked for."""
    static: HomogeneousPlan | None
    """Groups of one degree for all batches: the least that holds the longest sequence allowed.
    Nothing where no degree does."""
    homogeneous: HomogeneousPlan | None
    """The best single degree for this batch."""

    @property
    def gap_fraction(self) -> float:
        """Most by which the plan may be slower than the best, as a share of the bound."""
        bound = self.lower_bound_seconds
        return self.predicted_seconds / bound - 1 if bound else 0.0  # all costs may be 0


class TrainingPlan(StrictModel):
    """What `motley plan training` answers and the trainer runs."""

    schema_version: Literal[1]
    """Version of this document's layout."""
    kind: Literal["training-plan"] = "training-plan"
    """What it is, beside other plans."""
    model: Name
    """What is trained."""
    cluster: Cluster
    """Where."""
    costs: SequenceCosts
    """By which costs the times were predicted."""
    max_tokens: Tokens
    """Longest sequence that was admitted."""
    pad_to: Annotated[int, Field(gt=0)] = 1
    """Lengths are padded to multiples of this."""
    batch_size: Annotated[int, Field(gt=0)]
    """Sequences of a global batch; the last may hold fewer."""
    num_dropped_long: Annotated[int, Field(ge=0)] = 0
    """Sequences left out because they are longer than admitted."""
    num_dropped_empty: Annotated[int, Field(ge=0)] = 0
    """Sequences left out because they hold no token."""
    not_runnable: str | None = None
    """Why the trainer refuses the plan, such as degrees that do not divide the heads; null: it runs."""
    notes: tuple[str, ...] = ()
    """What the reader should know, such as rates taken beyond the measured degrees."""
    batches: tuple[BatchPlan, ...] = Field(min_length=1)
    """In the order of training."""
    placement: Placement | None = None
    """Tensor, pipeline and data parallelism over the islands; null: not asked for."""
