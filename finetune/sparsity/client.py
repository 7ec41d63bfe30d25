"""The client's end: read a download, train densely from it, send the largest changes.

Source: FLASC (arXiv 2406.05233), section 2.2 of whose procedure: the change is taken against what
was downloaded, and its mask is chosen apart from the download's. Error feedback is an addition.
"""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.errors import PayloadError
from finetune.sparsity.config import SparsityConfig
from finetune.sparsity.density import density, num_kept
from finetune.sparsity.feedback import Residual, carried
from finetune.sparsity.layout import Layout
from finetune.sparsity.parcel import Parcel, changed, difference, largest_sent
from finetune.updates import Tensors
from finetune.wire.message import decode

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Copy:
    """An adapter as a client holds it between rounds.

    Attributes:
        number: The server's name for it.
        vector: Shape (length,).
    """

    number: int
    vector: Vector

    @property
    def checksum(self) -> int:
        """CRC-32 of the vector: a copy of another run may bear the same number."""
        return zlib.crc32(self.vector.tobytes())


@dataclass(frozen=True, slots=True)
class ClientState:
    """What a client remembers; it never crosses the wire.

    Attributes:
        copy: The adapter it was sent last, where downloads are changes.
        residual: What it did not send, where error feedback is on.
    """

    copy: Copy | None = None
    residual: Residual | None = None


class SparseClients:
    """Clients of one process, by name. A client's state is as of its last answered message."""

    def __init__(
        self,
        layout: Layout,
        config: SparsityConfig,
        states: Mapping[str, ClientState] | None = None,
        *,
        first: Copy | None = None,
    ) -> None:
        """Begin where `states` stand; a client that is not in them holds `first`, if anything."""
        self._layout = layout
        self._config = config
        self._first = ClientState(copy=first)
        self.states = dict(states or {})

    def answer(
        self, client: str, download: Parcel, train: Callable[[Tensors], tuple[Tensors, float]]
    ) -> tuple[Parcel, float]:
        """Return the update that training on a download gives, and the mean training loss.

        Raises:
            PayloadError: If the download cannot be read, or training gave NaN or infinity. The
                client's state is then as before.
        """
        before = self.states.get(client, self._first)
        copy = read_download(download, before.copy, length=self._layout.length)
        tensors, loss = train(self._layout.tensors(copy.vector))
        trained = self._layout.flat(tensors)
        upload, residual = make_upload(
            copy.vector, trained, before.residual, self._config, download
        )
        keeps_copy = self._config.download == "change"
        self.states[client] = ClientState(copy if keeps_copy else None, residual)
        return upload, loss


def read_download(download: Parcel, copy: Copy | None, *, length: int) -> Copy:
    """Return the adapter that a download says to start from.

    Args:
        download: What the server sent.
        copy: What this client holds.
        length: Entries of the adapter.

    Raises:
        PayloadError: If it is malformed, or changes a copy that this client does not hold.
    """
    vector = decode(download.data, length=length)
    if download.is_whole:
        return Copy(download.facts.get("copy", 0), vector)
    base, checksum = download.fact("base"), download.fact("base_checksum")
    if copy is None or (copy.number, copy.checksum) != (base, checksum):
        held = "none" if copy is None else f"{'another ' * (copy.number == base)}{copy.number}"
        raise PayloadError(f"changes adapter {base}, this client holds {held}; send it whole")
    return Copy(download.fact("copy"), changed(copy.vector, vector))


def make_upload(
    start: Vector,
    trained: Vector,
    residual: Residual | None,
    config: SparsityConfig,
    download: Parcel,
) -> tuple[Parcel, Residual | None]:
    """Return the largest changes, and what is left over where error feedback is on.

    At density 1 in float32 the weights themselves are sent, so that no difference is rounded: the
    outcome is then the dense job's.

    Args:
        start: What training began from, shape (length,).
        trained: What it gave, shape (length,).
        residual: What earlier updates left over.
        config: Density, value type, encoding.
        download: Its facts tell round and basis.

    Raises:
        PayloadError: If training gave NaN or infinity, or what the value type does not hold.
    """
    if not np.isfinite(trained).all():
        raise PayloadError("holds NaN or infinity after training; lower learning_rate")
    round_number, basis, length = download.fact("round"), download.fact("basis"), len(start)
    target = trained
    if config.error_feedback is not None:
        kept = carried(
            residual,
            length=length,
            round_number=round_number,
            basis=basis,
            decay=config.error_feedback.decay_per_missed_round,
        )
        target = trained if kept is None else changed(trained, kept)
    share = density(
        config.upload_density,
        decay=config.upload_decay,
        every_rounds=config.decay_every_rounds,
        round_number=round_number,
    )
    is_whole = num_kept(length, share) == length and config.upload_values == "float32"
    change = difference(target, start)
    sent = largest_sent(
        target if is_whole else change,
        density=share,
        value_type=config.upload_values,
        encoding=config.encoding,
    )
    upload = Parcel(sent.data, {"is_whole": int(is_whole)})
    if config.error_feedback is None:
        return upload, None
    left_over = difference(change, difference(sent.vector, start) if is_whole else sent.vector)
    return upload, Residual(left_over, round_number, basis)
