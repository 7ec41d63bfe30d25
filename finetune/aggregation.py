"""One adapter of many: every module by the job's strategy, and how far the result is from exact."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import hypot

import numpy as np
from numpy.typing import NDArray

from finetune.bases import turned_towards
from finetune.factors import (
    UP_SUFFIX,
    Adapter,
    Factors,
    Scaling,
    common_rank,
    is_down,
    paired,
    resized,
    unpaired,
)
from finetune.low_rank import best_rank, decompose, difference_norm, frobenius_norm, stacked
from finetune.strategies.best_rank import best_rank_mean
from finetune.strategies.fedavg import fedavg
from finetune.strategies.fedsvd import fedsvd
from finetune.strategies.ffa import ffa
from finetune.strategies.flora import flora
from finetune.strategies.lora_fair import lora_fair, lora_fair_cosine
from finetune.strategies.strategy import Strategy, Target, weighted_sum
from finetune.updates import Tensors, Update

STRATEGIES: Mapping[str, Strategy] = {
    "fedavg": Strategy(fedavg, needs_each_update=False),
    "lora-fair": Strategy(lora_fair),
    "lora-fair-cosine": Strategy(lora_fair_cosine),
    "best-rank": Strategy(best_rank_mean, keeps_basis=False),
    "flora": Strategy(flora, keeps_basis=False),
    "ffa": Strategy(ffa, is_down_frozen=True, needs_each_update=False),
    "fedsvd": Strategy(fedsvd, is_down_frozen=True, keeps_basis=False, needs_each_update=False),
}
"""By the name that a job gives as `aggregation` (`config.AggregationName`)."""


@dataclass(frozen=True, slots=True)
class AggregationError:
    """How far an aggregated adapter is from the weighted mean of the clients' products.

    Attributes:
        absolute: Frobenius norm of the difference, over all modules together.
        relative: The same over the norm of the mean; 0 where both are zero.
    """

    absolute: float
    relative: float


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one client brings to a round.

    Attributes:
        adapter: Its modules, each with its own rank and scale.
        weight: Its share, in any unit.
    """

    adapter: Adapter
    weight: float


@dataclass(frozen=True, slots=True)
class Aggregation:
    """How a job's updates become one adapter.

    Attributes:
        strategy: The mathematics.
        scale: Of every product, the clients' and the server's, in all rounds.
        rank_of_round: Rank that a round trains, by its number; None keeps the adapter's.
        client_ranks: Most components that a client trains, by its name; without one, all.
        is_turned_back: Turn the result towards the adapter that was sent, for ends that remember
            entries. Components are then not in order of weight.
    """

    strategy: Strategy
    scale: float
    rank_of_round: Callable[[int], int] | None = None
    client_ranks: Mapping[str, int] = field(default_factory=dict)
    is_turned_back: bool = False

    def completed(self, update: Update, tensors: Tensors) -> Update:
        """Return an update in the form of the server's `tensors`, for what clients do not send.

        That is A where it is frozen, and the components beyond a client's own rank: they stay the
        server's, so that nothing a client did not train counts as its change. An update of another
        form is left for the checks to refuse.
        """
        rank = common_rank(tensors)
        own = resized(tensors, min(rank, self.client_ranks.get(update.client, rank)))
        received = dict(update.tensors)
        if all(name in own and own[name].shape == t.shape for name, t in received.items()):
            received = {
                name: _with_rest(name, tensor, tensors[name]) for name, tensor in received.items()
            }
        if self.strategy.is_down_frozen:
            received |= {name: tensor for name, tensor in tensors.items() if is_down(name)}
        return replace(update, tensors=received)

    def combine(
        self, updates: Sequence[Update], *, like: Tensors, round_number: int
    ) -> tuple[dict[str, NDArray[np.float32]], AggregationError]:
        """Return the adapter that the next round begins with, and its distance from exact.

        Args:
            updates: What came back, in the form of `like`.
            like: What was sent.
            round_number: The round that ends; the next may have a lower rank.

        Raises:
            ValueError: If there is no update.
        """
        rank = common_rank(like)
        scaling = Scaling(rank, self.scale * rank)
        contributions = [
            Contribution(paired(update.tensors, scaling), update.num_examples) for update in updates
        ]
        return aggregate(
            contributions,
            self.strategy,
            like=paired(like, scaling),
            most_rank=self.next_rank(round_number),
            is_turned_back=self.is_turned_back,
        )

    def next_rank(self, round_number: int) -> int | None:
        """Return the most components of what a round, or a version of this number, ends with."""
        return None if self.rank_of_round is None else self.rank_of_round(round_number + 1)


def _with_rest(
    name: str, tensor: NDArray[np.float32], server: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Return a client's factor with the server's components behind its own."""
    if name.endswith(UP_SUFFIX):
        return np.concatenate([tensor, server[:, tensor.shape[1] :]], axis=1)
    return np.concatenate([tensor, server[len(tensor) :]]) if is_down(name) else tensor


FEDAVG = Aggregation(STRATEGIES["fedavg"], scale=1.0)
"""Means of the factors, for tensors whose scale is not known; only the error's unit hangs on it."""


def aggregate(
    contributions: Sequence[Contribution],
    strategy: Strategy,
    *,
    like: Adapter,
    most_rank: int | None = None,
    is_turned_back: bool = False,
) -> tuple[dict[str, NDArray[np.float32]], AggregationError]:
    """Return one adapter's tensors in float32, with the ranks and scales of `like`, and its error.

    What is no factor, such as a head, is averaged.

    Args:
        contributions: The clients'.
        strategy: The mathematics.
        like: What the server sent.
        most_rank: Modules of a higher rank are squeezed to this one, which counts into the error.
        is_turned_back: Turn each module towards that of `like`, where the rank is still the same.

    Raises:
        ValueError: If there is no contribution, or the strategy does not take their ranks.
    """
    if not contributions:
        raise ValueError("no update to average; give at least one")
    weights_K = np.array([contribution.weight for contribution in contributions], np.float64)
    weights_K /= weights_K.sum()
    return added_up(
        [contribution.adapter for contribution in contributions],
        weights_K,
        strategy,
        like=like,
        most_rank=most_rank,
        is_turned_back=is_turned_back,
    )


def added_up(
    adapters: Sequence[Adapter],
    weights_K: NDArray[np.float64],
    strategy: Strategy,
    *,
    like: Adapter,
    most_rank: int | None = None,
    is_turned_back: bool = False,
) -> tuple[dict[str, NDArray[np.float32]], AggregationError]:
    """Return the sum of adapters by weights as they are, which `aggregate` has made sum to 1.

    Args:
        adapters: At least one.
        weights_K: One each, of any sum that the strategy takes.
        strategy: The mathematics.
        like: As for `aggregate`, and so are the others.
        most_rank: See there.
        is_turned_back: See there.
    """
    modules, differences, norms = {}, [0.0], [0.0]
    for name, server in like.modules.items():
        clients = [adapter.modules[name] for adapter in adapters]
        result = strategy.combine(clients, weights_K, Target(server.rank, server.scale))
        if most_rank is not None and most_rank < result.rank:
            result = best_rank(
                decompose(result),
                most_rank,
                scale=result.scale,
                # Rows of A that clients do not train must not be small where the update was.
                is_down_orthonormal=strategy.is_down_frozen,
            )
        if is_turned_back and result.rank == server.rank:
            result = turned_towards(result, server)
        modules[name] = _in_float32(result)
        wanted = stacked(clients, weights_K)
        differences.append(difference_norm(wanted, modules[name]))
        norms.append(frobenius_norm(wanted))
    others = {
        name: weighted_sum([adapter.others[name] for adapter in adapters], weights_K).astype(
            tensor.dtype
        )
        for name, tensor in like.others.items()
    }
    absolute, norm = hypot(*differences), hypot(*norms)
    error = AggregationError(absolute, absolute / norm if norm > 0 else 0.0)
    return unpaired(Adapter(modules, others)), error


def _in_float32(factors: Factors) -> Factors:
    """Return the factors as clients will get them, so that the error is that of what is sent."""
    up_MR, down_RN = factors.up_MR.astype(np.float32), factors.down_RN.astype(np.float32)
    return Factors(up_MR, down_RN, factors.scale)
