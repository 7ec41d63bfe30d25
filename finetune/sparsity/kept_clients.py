"""The client's end of a sparse job on a machine of its own: what it remembers is on its disk."""

import logging
import os
from pathlib import Path
from typing import Literal

from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from finetune.errors import ClientStateError
from finetune.private_file import write_privately
from finetune.seeded import Seeded
from finetune.sparsity.client import ClientState, Copy, Train, Vector, train_sparsely
from finetune.sparsity.config import SparsityConfig
from finetune.sparsity.feedback import Residual
from finetune.sparsity.layout import Layout
from finetune.sparsity.parcel import Parcel
from finetune.sparsity.settlement import (
    NO_RECEIPT,
    RECEIPT_FACT,
    Attempt,
    Standing,
    attempted,
    settled,
    upload_number,
)
from planner.config import StrictModel
from planner.errors import DocumentError

logger = logging.getLogger(__name__)


class StateHeader(StrictModel):
    """The numbers of a `ClientState`; its vectors stand beside it."""

    copy_number: int | None = None
    """Of its copy, an array `WHICH/copy`."""
    residual: tuple[int, int] | None = None
    """Round and basis of its residual, an array `WHICH/residual`."""


class StandingHeader(StrictModel):
    """What a client's file says beside its arrays; stands in the file's own metadata."""

    schema_version: Literal[1] = 1
    """Version of the file's form."""
    receipt: int = NO_RECEIPT
    """Number of the last upload that the server is known to have taken."""
    settled: StateHeader = StateHeader()
    """What the client remembered then."""
    attempt: tuple[int, StateHeader] | None = None
    """Number of the upload since, and what the client remembers if it is taken."""


class StateFolder:
    """One file a client; a write leaves the old content or the new."""

    def __init__(self, folder: Path) -> None:
        """Name the folder; nothing is touched yet."""
        self._folder = folder

    def prepare(self) -> None:
        """Make the folder for its user alone; one that is there stays as it is, and open is told.

        Raises:
            ClientStateError: If it cannot be made or written.
        """
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            is_open = bool(self._folder.stat().st_mode & 0o077)
        except OSError as error:
            raise ClientStateError(self._folder, f"cannot be made ({error.strerror})") from None
        if not os.access(self._folder, os.W_OK | os.X_OK):
            raise ClientStateError(self._folder, "cannot be written")
        if is_open:
            logger.warning("state can be read by other users, chmod 700 folder=%s", self._folder)

    def load(self, client: str) -> Standing | None:
        """Return what a client wrote last, None where it wrote nothing.

        A file that cannot be read counts as none, with a warning: the server's receipt then says
        that something is missing, and the client begins with no residual.
        """
        path = self._path(client)
        if not path.exists():
            return None
        try:
            with safe_open(path, framework="numpy") as file:
                header = StandingHeader.model_validate_json((file.metadata() or {})["header"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            attempt = None
            if header.attempt is not None:
                number, state = header.attempt
                attempt = Attempt(number, _state(state, arrays, "attempt"))
            return Standing(_state(header.settled, arrays, "settled"), header.receipt, attempt)
        except (SafetensorError, KeyError, ValidationError, OSError) as error:
            logger.warning(
                "state is damaged, beginning without it file=%s error=%s",
                path,
                type(error).__name__,
            )
            return None

    def save(self, client: str, standing: Standing) -> None:
        """Replace what a client wrote.

        Raises:
            ClientStateError: If the disk does not take it.
        """
        attempt = standing.attempt
        header = StandingHeader(
            receipt=standing.receipt,
            settled=_header(standing.state),
            attempt=None if attempt is None else (attempt.number, _header(attempt.state)),
        )
        arrays = _arrays(standing.state, "settled")
        if attempt is not None:
            arrays |= _arrays(attempt.state, "attempt")
        data = save(arrays, metadata={"header": header.model_dump_json()})
        try:
            write_privately(self._path(client), data)
        except DocumentError as error:
            raise ClientStateError(self._folder, f"does not take the state ({error})") from None

    def _path(self, client: str) -> Path:
        return self._folder / f"{client}.safetensors"


class KeptClients:
    """Clients that settle each upload by the server's receipts; see `settlement`."""

    def __init__(
        self,
        layout: Layout,
        config: SparsityConfig,
        folder: StateFolder,
        *,
        first: Copy | None,
        seeded: Seeded,
    ) -> None:
        """Read nothing yet.

        Args:
            layout: Of the job's first adapter, without what is seeded.
            config: The job's.
            folder: Where each client's standing is.
            first: The copy that a client holds before it was sent one, if any.
            seeded: Tensors that no message carries.
        """
        self._layout = layout
        self._config = config
        self._folder = folder
        self._first = first
        self._seeded = seeded

    def answer(self, client: str, download: Parcel, train: Train) -> tuple[Parcel, float]:
        """Return the update that training on a download gives, and the mean training loss.

        The attempt is on disk before this returns.

        Raises:
            PayloadError: If the download cannot be read, or training gave NaN or infinity.
            ClientStateError: If the disk does not take the attempt.
        """
        standing = settled(self._folder.load(client) or Standing(), download.fact(RECEIPT_FACT))
        before = standing.state
        if before.copy is None or self._means_first(download):
            before = ClientState(self._first, before.residual)
        upload, loss, after = train_sparsely(
            download, before, train, self._layout, self._config, self._seeded
        )
        number = upload_number(upload.data, round_number=download.fact("round"))
        self._folder.save(client, attempted(standing, number, after))
        logger.info("upload kept client=%s upload=%014x", client, number)
        return upload, loss

    def _means_first(self, download: Parcel) -> bool:
        """Whether a download changes the adapter that nobody has to be sent."""
        return self._first is not None and download.facts.get("base") == self._first.number


def _header(state: ClientState) -> StateHeader:
    copy, residual = state.copy, state.residual
    return StateHeader(
        copy_number=None if copy is None else copy.number,
        residual=None if residual is None else (residual.round_number, residual.basis),
    )


def _arrays(state: ClientState, which: str) -> dict[str, Vector]:
    arrays = {}
    if state.copy is not None:
        arrays[f"{which}/copy"] = state.copy.vector
    if state.residual is not None:
        arrays[f"{which}/residual"] = state.residual.vector
    return arrays


def _state(header: StateHeader, arrays: dict[str, Vector], which: str) -> ClientState:
    copy = residual = None
    if header.copy_number is not None:
        copy = Copy(header.copy_number, arrays[f"{which}/copy"])
    if header.residual is not None:
        residual = Residual(arrays[f"{which}/residual"], *header.residual)
    return ClientState(copy, residual)
