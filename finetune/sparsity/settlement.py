"""Each upload of a client on a machine of its own counts once: what it remembers, and when that holds.

A client that trained keeps what it did not send (its residual) and what it was sent (its copy), but
whether the upload reached a saved round it cannot know: the answer may have come too late, or the
server may have been killed and have gone on from its last checkpoint. So an upload is an attempt
until the server names it:

1. Each upload has a number, a digest that both ends compute from round and bytes.
2. The server's checkpoint holds, for each client, the number of the last upload that it took: its
   receipt. Each download names the receipt, 0 where there is none.
3. Before it answers, a client writes to its disk, in one file: what it remembered as of the last
   receipt it saw, that receipt, and the open attempt with what it will remember if that is taken.
4. The next download settles it. It names the attempt: what the attempt left over is the residual.
   It names the earlier receipt: the attempt is rolled back, as if the client had not been in that
   round. It names neither: the server has gone back behind what this client remembers, or is another
   run's; the residual is dropped, for some of it may be in the adapter already.

Killed before the write, a client is where it was; killed after it, with an attempt that the server
never sees and never names. The server names a receipt only from a saved round, so it never goes back
behind the last one it named, unless its folder is replaced by an older one or its disk lost a write.
An update that its checks refuse was taken: it counts as sent (`feedback.py`). Hence what was taken of
a client's changes plus its residual is the sum of the changes of the uploads that were taken, each
once.
"""

import logging
from dataclasses import dataclass, field, replace
from hashlib import blake2b

from finetune.sparsity.client import ClientState

logger = logging.getLogger(__name__)

NO_RECEIPT = 0
"""Named to a client of which no upload was taken."""

RECEIPT_FACT = "receipt"
"""Name of the receipt beside a download's bytes."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """An upload of which the client does not know yet whether it was taken.

    Attributes:
        number: The upload's.
        state: What the client remembers if it was.
    """

    number: int
    state: ClientState


@dataclass(frozen=True, slots=True)
class Standing:
    """All that a client keeps on its disk.

    Attributes:
        state: What it remembered when its last settled upload was taken.
        receipt: That upload's number.
        attempt: The upload since, if there is one.
    """

    state: ClientState = field(default_factory=ClientState)
    receipt: int = NO_RECEIPT
    attempt: Attempt | None = None


def upload_number(data: bytes, *, round_number: int) -> int:
    """Return the number of an upload: 56 bits of a digest, so that it fits a signed integer."""
    digest = blake2b(data, digest_size=7, key=round_number.to_bytes(8, "big"))
    return int.from_bytes(digest.digest(), "big")


def settled(standing: Standing, receipt: int) -> Standing:
    """Return a client's standing without an open attempt, after the server named a receipt."""
    attempt = standing.attempt
    if attempt is not None and receipt == attempt.number:
        return Standing(attempt.state, receipt)
    if receipt == standing.receipt:
        if attempt is not None:
            logger.warning("upload did not count, rolled back upload=%014x", attempt.number)
        return Standing(standing.state, receipt)
    logger.warning(
        "residual dropped: the server's last upload of ours is another receipt=%014x ours=%014x",
        receipt,
        standing.receipt,
    )
    # A copy is of use to a server of any history: it names the one it means by a checksum.
    return Standing(replace(standing.state, residual=None), receipt)


def attempted(standing: Standing, number: int, state: ClientState) -> Standing:
    """Return a settled standing with an open attempt, to be written before the upload is sent."""
    return replace(standing, attempt=Attempt(number, state))
