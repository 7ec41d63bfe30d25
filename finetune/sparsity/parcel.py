"""What crosses the wire in one direction: the bytes of a vector, and what they say."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.errors import PayloadError
from finetune.sparsity.density import num_kept
from finetune.sparsity.top_k import top_k
from finetune.wire.message import Encoding, decode, encode
from finetune.wire.values import ValueType

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Parcel:
    """One message's payload.

    Attributes:
        data: A vector, as `finetune.wire.message` writes it.
        facts: Small whole numbers beside it. `is_whole` is 1 where the vector holds weights, 0
            where it holds a change of what the receiver has.
    """

    data: bytes
    facts: Mapping[str, int]

    @property
    def is_whole(self) -> bool:
        """Whether the vector holds weights and needs nothing that the receiver has.

        Raises:
            PayloadError: If the message does not say.
        """
        return bool(self.fact("is_whole"))

    def fact(self, name: str) -> int:
        """Return one of the facts.

        Raises:
            PayloadError: If it is missing.
        """
        value = self.facts.get(name)
        if value is None:
            raise PayloadError(f"comes without {name!r}")
        return value


@dataclass(frozen=True, slots=True)
class Sent:
    """A vector cut to its largest entries, as bytes and as the receiver will read it.

    Attributes:
        data: The bytes.
        vector: What they decode to: rounded to the value type, zero where nothing was sent.
    """

    data: bytes
    vector: Vector


def largest_sent(
    vector: Vector, *, density: float, value_type: ValueType, encoding: Encoding | None
) -> Sent:
    """Return the largest entries of `vector`, shape (length,), ready to be sent.

    Raises:
        PayloadError: If it holds NaN, infinity, or a value too large for the type.
    """
    if not np.isfinite(vector).all():
        raise PayloadError("holds NaN or infinity")
    kept = top_k(vector, num_kept(len(vector), density))
    data = encode(kept, value_type=value_type, encoding=encoding)
    return Sent(data, decode(data, length=len(vector)))


def changed(vector: Vector, change: Vector) -> Vector:
    """Return `vector` plus `change`, summed in float64; infinity where float32 ends."""
    with np.errstate(over="ignore"):
        return (vector.astype(np.float64) + change).astype(np.float32)


def difference(vector: Vector, other: Vector) -> Vector:
    """Return `vector` minus `other`, taken in float64; infinity where float32 ends."""
    with np.errstate(over="ignore"):
        return (vector.astype(np.float64) - other).astype(np.float32)
