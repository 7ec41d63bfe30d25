"""LoRA-FAIR: the means of A and of B, with a correction of B towards the mean of products.

Of the bias only what lies in the row space of the mean A can be removed. The correction is held
small, since a B far from the clients' own trains worse even where its product is the better one.

Shape suffixes: M outputs of a layer, N inputs, R rank, K clients.

Source: Bian et al. 2024 (arXiv 2411.14961). The penalties here are relative (see each function), so
that one value serves layers of every size; they are not the paper's lambda.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.factors import Factors
from finetune.low_rank import Array, frobenius_norm, stacked
from finetune.strategies.fedavg import fedavg
from finetune.strategies.strategy import Target

PENALTY = 0.01
"""Weight of the correction's size; the number the paper takes for its own penalty."""

MOST_STEPS = 1000
"""Gradient steps at the most; on adapters of rank 16 a few hundred reach the optimum."""

LEAST_STEP = 1e-10
"""A step this short, relative to B, no longer changes the result."""


def lora_fair(
    clients: Sequence[Factors],
    weights_K: NDArray[np.float64],
    target: Target,
    *,
    penalty: float = PENALTY,
) -> Factors:
    """Return the means with B corrected by least squares, in closed form.

    Minimises ||W - (B + C) A||^2 + l ||C||^2 over C, with W the mean of products over the target's
    scale, A and B the means, and l = `penalty` times the mean squared norm of A's rows.
    """
    mean = fedavg(clients, weights_K, target)
    gram_RR = mean.down_RN @ mean.down_RN.T
    ridge = penalty * float(np.trace(gram_RR)) / mean.rank
    if not ridge > 0:
        return mean  # A is zero: no B makes a product
    residual_MR = _wanted_onto_mean(clients, weights_K, mean) - mean.up_MR @ gram_RR
    correction_RM = np.linalg.solve(gram_RR + ridge * np.eye(mean.rank), residual_MR.T)
    return Factors(mean.up_MR + correction_RM.T, mean.down_RN, target.scale)


def lora_fair_cosine(
    clients: Sequence[Factors],
    weights_K: NDArray[np.float64],
    target: Target,
    *,
    penalty: float = PENALTY,
) -> Factors:
    """Return the means with B corrected by gradient steps on the cosine objective.

    Minimises 1 - cos(W, (B + C) A) + `penalty` ||C|| / ||B|| over C, beginning at C = 0. No step
    that raises the objective is taken, so the result is never worse than the means. Where a product
    is zero, as in a first round with B = 0, there is no angle, and the means are the result.
    """
    mean = fedavg(clients, weights_K, target)
    wanted_norm = frobenius_norm(stacked(clients, weights_K)) / target.scale
    if not (wanted_norm > 0 and frobenius_norm(mean) > 0):
        return mean
    objective = _CosineObjective(
        start_MR=np.asarray(mean.up_MR, np.float64),
        onto_MR=_wanted_onto_mean(clients, weights_K, mean) / wanted_norm,
        gram_RR=mean.down_RN @ mean.down_RN.T,
        penalty=penalty,
    )
    return Factors(_descend(objective), mean.down_RN, target.scale)


@dataclass(frozen=True, slots=True)
class _CosineObjective:
    """The objective in terms of M x R arrays alone.

    Attributes:
        start_MR: Mean B.
        onto_MR: Mean product, of norm 1, times the transpose of mean A.
        gram_RR: Mean A times its transpose.
        penalty: Weight of the correction's size.
    """

    start_MR: Array
    onto_MR: Array
    gram_RR: Array
    penalty: float

    def value(self, up_MR: Array) -> float:
        distance = self._distance(up_MR)
        norm = np.sqrt(np.sum((up_MR @ self.gram_RR) * up_MR))
        if not norm > 0:
            return np.inf
        return float(1 - np.sum(self.onto_MR * up_MR) / norm + self.penalty * distance)

    def gradient(self, up_MR: Array) -> Array:
        times_gram_MR = up_MR @ self.gram_RR
        norm = np.sqrt(np.sum(times_gram_MR * up_MR))
        inner = np.sum(self.onto_MR * up_MR)
        angle_MR: Array = inner / norm**3 * times_gram_MR - self.onto_MR / norm
        size, distance = float(np.linalg.norm(self.start_MR)), self._distance(up_MR)
        if distance > 0:
            pull_MR: Array = self.penalty * (up_MR - self.start_MR) / (distance * size**2)
            return angle_MR + pull_MR
        # The penalty has a kink at zero: its pull there cancels as much of the rest as it can.
        steepness = float(np.linalg.norm(angle_MR))
        if steepness <= self.penalty / size:
            return np.zeros_like(angle_MR)
        return angle_MR * (1 - self.penalty / (size * steepness))

    def _distance(self, up_MR: Array) -> float:
        return float(np.linalg.norm(up_MR - self.start_MR) / np.linalg.norm(self.start_MR))


def _descend(objective: _CosineObjective) -> Array:
    """Return where plain gradient steps end; a step is halved until it goes down."""
    up_MR = objective.start_MR
    value, size = objective.value(up_MR), float(np.linalg.norm(up_MR))
    if not np.isfinite(value):
        return up_MR  # the product is zero but for rounding: there is no angle
    step = 0.1 * size**2  # gradients have the inverse unit of B
    for _ in range(MOST_STEPS):
        gradient_MR = objective.gradient(up_MR)
        steepness = float(np.linalg.norm(gradient_MR))
        trial_MR = up_MR - step * gradient_MR
        while (lower := objective.value(trial_MR)) >= value:
            step /= 2
            if step * steepness <= LEAST_STEP * size:
                return up_MR
            trial_MR = up_MR - step * gradient_MR
        up_MR, value, step = trial_MR, lower, step * 1.5
    return up_MR


def _wanted_onto_mean(
    clients: Sequence[Factors], weights_K: NDArray[np.float64], mean: Factors
) -> Array:
    """Return the mean of products over the target's scale, times the transpose of the mean A."""
    stack = stacked(clients, weights_K)
    onto_MR = stack.up_MR @ (stack.down_RN @ mean.down_RN.T) / mean.scale
    return np.asarray(onto_MR, np.float64)
