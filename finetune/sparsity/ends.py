"""The ends of a sparse job: both in one process, or the server's where clients keep their own."""

from finetune.seeded import EVERYTHING_CROSSES, Seeded
from finetune.sparsity.client import Copy, SparseClients
from finetune.sparsity.config import SparsityConfig
from finetune.sparsity.layout import Layout
from finetune.sparsity.memory import SparseMemory
from finetune.sparsity.server import FIRST_COPY, ServerState, SparseServer
from finetune.updates import Tensors


class ServerEnd:
    """The server's end, remembered and restored; its clients settle with it by receipts."""

    def __init__(
        self, adapter: Tensors, config: SparsityConfig, seeded: Seeded = EVERYTHING_CROSSES
    ) -> None:
        """Begin with nothing sent.

        Args:
            adapter: The first one, made from the job's seed.
            config: The job's.
            seeded: Tensors of it that no message carries.
        """
        layout = sparse_layout(adapter, seeded)
        state = _first_state(first_copy(layout, adapter, config))
        self.server = SparseServer(
            layout, config, state, seeded=seeded, gives_receipts=config.remembers
        )

    @property
    def memory(self) -> SparseMemory:
        """What the server remembers, as a value."""
        return SparseMemory(self.server.state)

    def restore(self, memory: SparseMemory) -> None:
        """Go on from what `memory` said."""
        self.server.state = memory.server


class SparseEnds:
    """Both ends of a job in one process, remembered and restored together."""

    def __init__(
        self, adapter: Tensors, config: SparsityConfig, seeded: Seeded = EVERYTHING_CROSSES
    ) -> None:
        """Begin with nothing sent; see `ServerEnd`."""
        layout = sparse_layout(adapter, seeded)
        first = first_copy(layout, adapter, config)
        self.server = SparseServer(layout, config, _first_state(first), seeded=seeded)
        self.clients = SparseClients(layout, config, first=first, seeded=seeded)

    @property
    def memory(self) -> SparseMemory:
        """What both ends remember, as a value."""
        return SparseMemory(self.server.state, dict(self.clients.states))

    def restore(self, memory: SparseMemory) -> None:
        """Go on from what `memory` said."""
        self.server.state = memory.server
        self.clients.states = dict(memory.clients)


def sparse_layout(adapter: Tensors, seeded: Seeded) -> Layout:
    """Return the layout of what of the first adapter may cross."""
    return Layout.of({name: t for name, t in adapter.items() if name not in seeded.tensors})


def first_copy(layout: Layout, adapter: Tensors, config: SparsityConfig) -> Copy | None:
    """Return the copy that both ends make from the job's seed, None where it is sent."""
    if config.download != "change" or config.is_first_adapter_sent:
        return None
    return Copy(FIRST_COPY, layout.flat(adapter))


def _first_state(first: Copy | None) -> ServerState:
    return ServerState() if first is None else ServerState(copies={first.number: first.vector})
