"""What both ends remember between rounds, as arrays and a small document: for checkpoints."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from finetune.sparsity.client import ClientState, Copy
from finetune.sparsity.feedback import Residual
from finetune.sparsity.server import ServerState
from planner.config import StrictModel

Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class SparseMemory:
    """The server's state, and that of each client that lives in the server's process."""

    server: ServerState = field(default_factory=ServerState)
    clients: Mapping[str, ClientState] = field(default_factory=dict)


class MemoryHeader(StrictModel):
    """The numbers of a `SparseMemory`; its vectors stand beside it, by name."""

    last_copy: int
    """The highest number of a copy so far."""
    basis: int
    """Changes of the adapter's basis so far."""
    copies: tuple[int, ...]
    """Numbers of the server's copies; each is an array `server/NUMBER`."""
    held: tuple[tuple[int, int], ...]
    """Node, number of the copy it holds."""
    clients: tuple[str, ...]
    """Names of the clients that remember something."""
    client_copies: tuple[tuple[str, int], ...]
    """Client, number of its copy; an array `copy/CLIENT`."""
    residuals: tuple[tuple[str, int, int], ...]
    """Client, round and basis of its residual; an array `residual/CLIENT`."""
    receipts: tuple[tuple[int, int], ...] = ()
    """Node, number of the last upload of it that was taken."""


def to_parts(memory: SparseMemory) -> tuple[MemoryHeader, dict[str, Vector]]:
    """Return a memory as a document and arrays by name."""
    server, clients = memory.server, sorted(memory.clients.items())
    copies = [(name, state.copy) for name, state in clients if state.copy is not None]
    residuals = [(name, state.residual) for name, state in clients if state.residual is not None]
    header = MemoryHeader(
        last_copy=server.last_copy,
        basis=server.basis,
        copies=tuple(server.copies),
        held=tuple(server.held.items()),
        receipts=tuple(server.receipts.items()),
        clients=tuple(name for name, _ in clients),
        client_copies=tuple((name, copy.number) for name, copy in copies),
        residuals=tuple((name, r.round_number, r.basis) for name, r in residuals),
    )
    arrays = {f"server/{number}": vector for number, vector in server.copies.items()}
    arrays |= {f"copy/{name}": copy.vector for name, copy in copies}
    arrays |= {f"residual/{name}": residual.vector for name, residual in residuals}
    return header, arrays


def from_parts(header: MemoryHeader, arrays: Mapping[str, Vector]) -> SparseMemory:
    """Return the memory that `to_parts` took apart.

    Raises:
        KeyError: If an array is missing.
    """
    copies = {name: Copy(number, arrays[f"copy/{name}"]) for name, number in header.client_copies}
    residuals = {
        name: Residual(arrays[f"residual/{name}"], round_number, basis)
        for name, round_number, basis in header.residuals
    }
    return SparseMemory(
        ServerState(
            copies={number: arrays[f"server/{number}"] for number in header.copies},
            held=dict(header.held),
            last_copy=header.last_copy,
            basis=header.basis,
            receipts=dict(header.receipts),
        ),
        {name: ClientState(copies.get(name), residuals.get(name)) for name in header.clients},
    )
