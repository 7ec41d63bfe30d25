"""Tensors that both ends make from the job's seed, which therefore need not cross: a frozen A.

Source: FFA-LoRA (Sun et al. 2024, arXiv 2403.12313): A never changes, so it is known by its seed.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from finetune.errors import PayloadError
from finetune.factors import UP_SUFFIX, common_rank, is_down, resized
from finetune.updates import Tensors

SEEDED_KEY = "seeded"
"""Key of the checksum, in a message that leaves such tensors out."""


@dataclass(frozen=True, slots=True)
class Seeded:
    """What one end made from the seed.

    Attributes:
        tensors: By name, at the job's first rank; none where everything crosses.
    """

    tensors: Tensors = field(default_factory=dict)

    @classmethod
    def frozen_down(cls, first: Tensors) -> "Seeded":
        """Return every A of the first adapter."""
        return cls({name: tensor for name, tensor in first.items() if is_down(name)})

    def at_rank(self, rank: int) -> "Seeded":
        """Return what a client of a lower rank needs of it."""
        return Seeded(resized(self.tensors, rank))

    @property
    def checksum(self) -> int:
        """CRC-32 of the tensors in the order of their names."""
        value = 0
        for name in sorted(self.tensors):
            value = zlib.crc32(np.ascontiguousarray(self.tensors[name]).tobytes(), value)
        return value

    def without(self, tensors: Tensors) -> tuple[Tensors, dict[str, int]]:
        """Return what must cross of an adapter, and the facts that say what is left out.

        All of it crosses where a squeeze or the aggregation has changed what the seed gave.
        """
        if not self.tensors:
            return tensors, {}
        own = self.at_rank(common_rank(tensors))
        if not all(np.array_equal(tensors[name], mine) for name, mine in own.tensors.items()):
            return tensors, {}
        crossing = {name: t for name, t in tensors.items() if name not in own.tensors}
        return crossing, {SEEDED_KEY: own.checksum}

    def completed(self, received: Tensors, facts: Mapping[str, object]) -> Tensors:
        """Return a received adapter with what its message leaves out.

        Raises:
            PayloadError: If this end's own differs from the sender's.
        """
        told = facts.get(SEEDED_KEY)
        if told is None:
            return received
        ranks = [t.shape[1] for name, t in received.items() if name.endswith(UP_SUFFIX)]
        own = self.at_rank(min(ranks, default=1))
        if own.checksum != told:
            raise PayloadError(
                f"leaves out what the seed gives, checksum {told}, and here it gives "
                f"{own.checksum}; use the server's job file and version of torch"
            )
        return {**own.tensors, **received}


EVERYTHING_CROSSES = Seeded()
"""No tensor is left out of any message."""
