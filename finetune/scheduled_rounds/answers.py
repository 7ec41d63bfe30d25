"""What a scheduled job keeps between versions: answers that were read, and the bytes that crossed."""

from dataclasses import dataclass, field, replace

from finetune.traffic import Traffic
from finetune.updates import Evaluation, Refusal, Tensors


@dataclass(frozen=True, slots=True)
class Answer:
    """One assignment's answer, read and checked.

    Attributes:
        client: Who sent it.
        tensors: What will be merged: the whole adapter where a version is made of updates that all
            began from the one before it, else the change, of `stale_updates.stale_change`. Empty
            if it was refused.
        num_examples: Training sequences the client holds.
        loss: Mean training loss, nats a token; 0 if it was refused.
        version: Of the adapter it began from.
        upload_bytes: Serialised length.
        upload: The same by what it says.
        refusal: Why it does not count; None if it does.
        held_out: How the client judged what it was sent, where that was due.
    """

    client: str
    tensors: Tensors
    num_examples: int
    loss: float
    version: int
    upload_bytes: int
    upload: Traffic
    refusal: Refusal | None = None
    held_out: tuple[Evaluation, ...] = ()


@dataclass(frozen=True, slots=True)
class Tally:
    """What happened since the last version, for the next line of `metrics.jsonl`.

    Attributes:
        download_bytes: Serialised bytes to clients.
        download: The same by what it says.
        upload_bytes: Serialised bytes of the answers that came, refused ones included.
        upload: The same by what it says.
        refused: Reason for each refused client; the last where there are several.
        num_refused: Refused answers.
        discards: How often a scheduler left an update out, by the reason.
    """

    download_bytes: int = 0
    download: Traffic = field(default_factory=Traffic)
    upload_bytes: int = 0
    upload: Traffic = field(default_factory=Traffic)
    refused: dict[str, str] = field(default_factory=dict)
    num_refused: int = 0
    discards: dict[str, int] = field(default_factory=dict)

    def sent(self, num_bytes: int, traffic: Traffic) -> "Tally":
        """Return the tally with bytes that went to clients."""
        return replace(
            self,
            download_bytes=self.download_bytes + num_bytes,
            download=self.download.plus(traffic),
        )

    def came(self, num_bytes: int, traffic: Traffic) -> "Tally":
        """Return the tally with bytes that came from a client."""
        return replace(
            self, upload_bytes=self.upload_bytes + num_bytes, upload=self.upload.plus(traffic)
        )

    def refusing(self, refusal: Refusal) -> "Tally":
        """Return the tally with a refused client; its bytes are counted as they came."""
        return replace(
            self,
            refused=self.refused | {refusal.client: refusal.reason},
            num_refused=self.num_refused + 1,
        )

    def discarding(self, reason: str) -> "Tally":
        """Return the tally with an update that counts in no version."""
        return replace(self, discards=self.discards | {reason: self.discards.get(reason, 0) + 1})
