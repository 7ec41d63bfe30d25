"""The variables and rows that all fleet programs share, scaled so that solvers keep their precision.

A solver's tolerance (about 1e-6) on a share is harmless where the whole size takes two replicas, and
hides whole replicas where it takes a million: throughputs of one size may differ that much. So the
variable is not the share itself but

    part[s,o] = share[s,o] * scale[s,o],   scale[s,o] = max(1, need[s,o])

where need[s,o] = rate[s] / (T[s,o] * u[o]) is how many replicas of o, loaded to the limit, serve all
of s. A part is then counted in replicas where the size is large, as a share where it is small, and no
coefficient exceeds 1. With weight[s] = min_o scale[s,o] the rows read

    served[s]:  sum_o weight[s] / scale[s,o] * part[s,o] = weight[s]     (the shares sum to 1)
    needed[o] = sum_s need[s,o] / scale[s,o] * part[s,o]                 (replicas taken of o)
"""

from collections.abc import Iterable

import pulp

from planner.fleet_problem import FleetProblem


class ShareProgram:
    """A minimisation over the shares of every size, to which the caller adds rows and objective."""

    def __init__(self, problem: FleetProblem, name: str, *, offers: Iterable[int]) -> None:
        """Create the parts of `problem` for the given offers."""
        self.lp = pulp.LpProblem(name, pulp.LpMinimize)
        self._problem = problem
        self._offers = tuple(offers)
        self._scale = {
            (s, o): max(1.0, problem.needed_for(s, o))
            for s in range(len(problem.sizes))
            for o in self._offers
            if problem.can_serve(s, o)
        }
        self.part = {
            (s, o): self.lp.add_variable(f"part_{s}_{o}", 0, scale)
            for (s, o), scale in self._scale.items()
        }

    def weight(self, size: int) -> float:
        """Return the factor of the size's row: the scale of the offer that needs least for it."""
        return min(self._scale[size, o] for o in self._offers if (size, o) in self._scale)

    def served(self, size: int) -> pulp.LpAffineExpression:
        """Return the size's served share times its weight."""
        weight = self.weight(size)
        return pulp.lpSum(
            weight / self._scale[size, o] * self.part[size, o]
            for o in self._offers
            if (size, o) in self.part
        )

    def needed(self, offer: int) -> pulp.LpAffineExpression:
        """Return how many replicas of the offer the parts take, loaded to its limit."""
        return pulp.lpSum(
            self._problem.needed_for(s, offer) / self._scale[s, offer] * self.part[s, offer]
            for s in range(len(self._problem.sizes))
            if (s, offer) in self.part
        )

    def is_small(self, size: int, offer: int) -> bool:
        """Tell whether the part is a share, because all of the size takes under one replica."""
        return self._scale[size, offer] == 1.0

    def share(self, size: int, offer: int) -> float:
        """Return the solved share of the size on the offer, free of rounding below 0."""
        if (size, offer) not in self.part:
            return 0.0
        return max(0.0, float(self.part[size, offer].value()) / self._scale[size, offer])
