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
from finetune.seeded import EVERYTHING_CROSSES, Seeded
from finetune.sparsity.config import SparsityConfig
from finetune.sparsity.density import density, num_kept
from finetune.sparsity.feedback import Residual, carried
from finetune.sparsity.layout import Layout
from finetune.sparsity.parcel import Parcel, changed, difference, largest_sent
from finetune.sparsity.rebasing import carried_residual
from finetune.sparsity.shared_mask import shared_positions
from finetune.updates import Tensors
from finetune.wire.message import decode

Vector = NDArray[np.float32]
Train = Callable[[Tensors], tuple[Tensors, float]]


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
        seeded: Seeded = EVERYTHING_CROSSES,
    ) -> None:
        """Begin where `states` stand.

        Args:
            layout: Of the job's first adapter, without what is seeded.
            config: The job's.
            states: By client; one that is missing holds `first`, if anything.
            first: The adapter that every client makes from the seed.
            seeded: Tensors of it that no message carries.
        """
        self._layout = layout
        self._config = config
        self._first = ClientState(copy=first)
        self._seeded = seeded
        self.states = dict(states or {})

    def answer(self, client: str, download: Parcel, train: Train) -> tuple[Parcel, float]:
        """Return the update that training on a download gives, and the mean training loss.

        Raises:
            PayloadError: If the download cannot be read, or training gave NaN or infinity. The
                client's state is then as before.
        """
        before = self.states.get(client, self._first)
        upload, loss, self.states[client] = train_sparsely(
            download, before, train, self._layout, self._config, self._seeded
        )
        return upload, loss

    def shared_change(
        self, client: str, download: Parcel, train: Train
    ) -> tuple[NDArray[np.float64], float]:
        """Return the change of the entries that all clients send, shape (k,), and the mean loss.

        For a secure sum, which carries them in place of a parcel. What the sum loses on the way,
        by clipping or because the client drops out, counts as sent.

        Raises:
            PayloadError: As `answer` does.
        """
        before = self.states.get(client, self._first)
        copy, trained, left_over, loss = _trained(
            download, before, train, self._layout, self._seeded
        )
        facts = download.fact("round"), download.fact("basis")
        change = difference(_target(trained, left_over, self._config, download), copy.vector)
        positions = shared_positions(len(change), self._config, round_number=facts[0])
        values = change[positions].astype(np.float64)
        residual = None
        if self._config.error_feedback is not None:
            change[positions] = 0
            residual = Residual(change, *facts)
        self.states[client] = _remembered(copy, residual, self._config)
        return values, loss


def train_sparsely(
    download: Parcel,
    before: ClientState,
    train: Train,
    layout: Layout,
    config: SparsityConfig,
    seeded: Seeded,
) -> tuple[Parcel, float, ClientState]:
    """Return the update, the mean training loss, and what the client remembers after it.

    Args:
        download: What the server sent.
        before: What the client remembers.
        train: Trains densely from an adapter; returns another and the loss.
        layout: Of the job's first adapter, without what is seeded.
        config: The job's.
        seeded: Tensors of it that no message carries.

    Raises:
        PayloadError: If the download cannot be read, or training gave NaN or infinity.
    """
    copy, trained, left_over, loss = _trained(download, before, train, layout, seeded)
    upload, residual = make_upload(copy.vector, trained, left_over, config, download)
    return upload, loss, _remembered(copy, residual, config)


def _trained(
    download: Parcel, before: ClientState, train: Train, first_layout: Layout, seeded: Seeded
) -> tuple[Copy, Vector, Residual | None, float]:
    """Return what training began from and gave, and the residual in the download's basis."""
    layout = _layout_of(download, first_layout)
    copy = read_download(download, before.copy, length=layout.length)
    tensors, loss = train(seeded.completed(layout.tensors(copy.vector), download.facts))
    residual, basis = before.residual, download.fact("basis")
    if residual is not None and residual.basis != basis and before.copy is not None:
        residual = carried_residual(
            residual, before.copy.vector, copy.vector, first_layout, basis=basis
        )
    return copy, layout.flat(tensors), residual, loss


def _layout_of(download: Parcel, first_layout: Layout) -> Layout:
    rank = download.facts.get("rank")
    if rank is None:
        return first_layout
    layout = first_layout.at_rank(max(1, rank))
    if layout.length > first_layout.length:
        raise PayloadError(f"is of rank {rank}, above the job's")
    return layout


def _remembered(copy: Copy, residual: Residual | None, config: SparsityConfig) -> ClientState:
    return ClientState(copy if config.download == "change" else None, residual)


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
    """Return the changes that are sent, and what is left over where error feedback is on.

    At density 1 in float32 the weights themselves are sent, so that no difference is rounded: the
    outcome is then the dense job's. Under a shared mask nothing but values is sent.

    Args:
        start: What training began from, shape (length,).
        trained: What it gave, shape (length,).
        residual: What earlier updates left over.
        config: Mask, density, value type, encoding.
        download: Its facts tell round and basis.

    Raises:
        PayloadError: If training gave NaN or infinity, or what the value type does not hold.
    """
    round_number, basis, length = download.fact("round"), download.fact("basis"), len(start)
    target = _target(trained, residual, config, download)
    share = density(
        config.upload_density,
        decay=config.upload_decay,
        every_rounds=config.decay_every_rounds,
        round_number=round_number,
    )
    is_whole = num_kept(length, share) == length and config.upload_values == "float32"
    is_shared = config.mask == "shared"
    change = difference(target, start)
    candidates = target if is_whole else change
    positions = np.arange(length)
    if is_shared:
        positions = shared_positions(length, config, round_number=round_number)
    sent = largest_sent(
        candidates[positions],
        density=1.0 if is_shared else share,
        value_type=config.upload_values,
        encoding="dense" if is_shared else config.encoding,
    )
    upload = Parcel(sent.data, {"is_whole": int(is_whole)})
    if config.error_feedback is None:
        return upload, None
    left_over = change.copy()
    known = sent.vector if not is_whole else difference(sent.vector, start[positions])
    left_over[positions] = difference(change[positions], known)
    return upload, Residual(left_over, round_number, basis)


def _target(
    trained: Vector, residual: Residual | None, config: SparsityConfig, download: Parcel
) -> Vector:
    """Return what training gave, plus what earlier updates left over.

    Raises:
        PayloadError: If training gave NaN or infinity.
    """
    if not np.isfinite(trained).all():
        raise PayloadError("holds NaN or infinity after training; lower learning_rate")
    if config.error_feedback is None:
        return trained
    kept = carried(
        residual,
        length=len(trained),
        round_number=download.fact("round"),
        basis=download.fact("basis"),
        decay=config.error_feedback.decay_per_missed_round,
    )
    return trained if kept is None else changed(trained, kept)
