"""Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam 2018).

It lets several workers agree without talking.

Algorithm: the key is the asked model or adapter and the first `leading_characters` (1,024, about 256
tokens) of the prompt as text. Its hash, the same in every process, is a place on a ring on which each
replica has `virtual_nodes` (256) places. Clockwise from there the first candidate is picked that, with
this request, has at most ceil(`load_factor` (1.25) x its part of all the candidates' requests, this one
included); parts are by weight, equal by default. Reason `hashed` for the first on the ring, `next_on_ring`
for a later one. Score: how many more requests each may take, more is better.

Each worker counts its own requests, which is sound where connections spread evenly over the workers.
A replica that is out is passed over, which moves its keys and nobody else's.
"""

import math
from collections.abc import Sequence

from router.base import Candidate, Decision, Query
from router.policies.hash_ring import HashRing, position
from router.policy_config import BoundedLoadConfig


class BoundedLoad:
    """Keeps the ring of the replicas it has seen."""

    def __init__(self, config: BoundedLoadConfig) -> None:
        self._config = config
        self._ring = HashRing(virtual_nodes=config.virtual_nodes)

    def pick(self, candidates: Sequence[Candidate], query: Query) -> Decision:
        """Return the first candidate on the ring with room under the bound; see the header."""
        rooms = self.rooms(candidates)
        places = self._ring.next_places(self._place(query), rooms)
        first = min(places, key=places.__getitem__)
        scores = tuple(rooms.items())
        if rooms[first] >= 1:
            return Decision(first, "hashed", scores)
        roomy = [url for url, room in rooms.items() if room >= 1]
        assert roomy, "the bounds add up to more than all requests"
        return Decision(min(roomy, key=places.__getitem__), "next_on_ring", scores)

    def rooms(self, candidates: Sequence[Candidate]) -> dict[str, float]:
        """Return how many more requests each candidate may take; at least one may take one."""
        total = sum([each.num_outstanding for each in candidates]) + 1
        factor = self._config.load_factor * total / sum([each.weight for each in candidates])
        return {
            each.url: float(math.ceil(factor * each.weight) - each.num_outstanding)
            for each in candidates
        }

    def _place(self, query: Query) -> int:
        leading = query.prompt.text[: self._config.leading_characters]
        return position(f"{query.model}\x1d{leading}".encode("utf-8", "surrogatepass"))
