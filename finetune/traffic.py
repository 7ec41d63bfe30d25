"""Bytes of one direction of a round, split by what they say."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace


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
            the updates of a secure sum.
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

    def plus(self, other: "Traffic") -> "Traffic":
        """Return the traffic of both."""
        return Traffic(
            self.values_bytes + other.values_bytes,
            self.index_bytes + other.index_bytes,
            self.header_bytes + other.header_bytes,
            self.num_whole + other.num_whole,
            dict(sorted((Counter(self.encodings) + Counter(other.encodings)).items())),
        )


@dataclass(frozen=True, slots=True)
class Totals:
    """Serialised bytes of a run so far, over all clients.

    Attributes:
        download_bytes: To the clients, in rounds.
        upload_bytes: From them, in rounds; refused replies too.
        judging_download_bytes: To the clients, to judge at the ends of the run.
        judging_upload_bytes: Their answers. What they report of an adapter that a round sent is in
            the round's bytes.
    """

    download_bytes: int = 0
    upload_bytes: int = 0
    judging_download_bytes: int = 0
    judging_upload_bytes: int = 0

    def with_round(self, *, download_bytes: int, upload_bytes: int) -> "Totals":
        """Return the totals after a round."""
        return replace(
            self,
            download_bytes=self.download_bytes + download_bytes,
            upload_bytes=self.upload_bytes + upload_bytes,
        )

    def with_judgement(self, *, download_bytes: int, upload_bytes: int) -> "Totals":
        """Return the totals after a judgement at an end of the run."""
        return replace(
            self,
            judging_download_bytes=self.judging_download_bytes + download_bytes,
            judging_upload_bytes=self.judging_upload_bytes + upload_bytes,
        )
