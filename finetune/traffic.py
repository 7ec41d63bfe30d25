"""Bytes of one direction of a round, split by what they say."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Content:
    """What one message carries, by the formula of its encoding.

    Attributes:
        encoding: How the adapter was written; `tensors` is the dense job's way.
        values_bytes: Length of the values.
        index_bytes: Length of what tells where they belong.
        is_whole: Whether it needs nothing that the receiver has.
    """

    encoding: str
    values_bytes: int
    index_bytes: int
    is_whole: bool


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes of some messages; the three kinds sum to what was measured.

    Attributes:
        values_bytes: Values, by formula.
        index_bytes: Positions of values, by formula.
        header_bytes: All else of the serialised messages; whole those that could not be read, and
            those of a secure sum.
        num_whole: Messages that need nothing the receiver has. Where downloads are changes, each
            went to a client that the server did not know to hold a base.
        encodings: Messages by encoding.
    """

    values_bytes: int = 0
    index_bytes: int = 0
    header_bytes: int = 0
    num_whole: int = 0
    encodings: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, total_bytes: int, contents: Iterable[Content]) -> "Traffic":
        """Split the measured length of messages that carry `contents`."""
        contents = list(contents)
        values_bytes = sum(content.values_bytes for content in contents)
        index_bytes = sum(content.index_bytes for content in contents)
        return cls(
            values_bytes,
            index_bytes,
            total_bytes - values_bytes - index_bytes,
            sum(content.is_whole for content in contents),
            dict(sorted(Counter(content.encoding for content in contents).items())),
        )
