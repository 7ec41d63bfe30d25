"""Both ends of a sparse job that runs in one process."""

from finetune.sparsity.client import Copy, SparseClients
from finetune.sparsity.config import SparsityConfig
from finetune.sparsity.layout import Layout
from finetune.sparsity.memory import SparseMemory
from finetune.sparsity.server import FIRST_COPY, ServerState, SparseServer
from finetune.updates import Tensors


class SparseEnds:
    """The server's end and the clients', remembered and restored together."""

    def __init__(self, adapter: Tensors, config: SparsityConfig) -> None:
        """Begin with nothing sent.

        Args:
            adapter: The first one, made from the job's seed.
            config: The job's.
        """
        layout = Layout.of(adapter)
        first, state = None, ServerState()
        if config.download == "change" and not config.is_first_adapter_sent:
            first = Copy(FIRST_COPY, layout.flat(adapter))
            state = ServerState(copies={first.number: first.vector})
        self.server = SparseServer(layout, config, state)
        self.clients = SparseClients(layout, config, first=first)

    @property
    def memory(self) -> SparseMemory:
        """What both ends remember, as a value."""
        return SparseMemory(self.server.state, dict(self.clients.states))

    def restore(self, memory: SparseMemory) -> None:
        """Go on from what `memory` said."""
        self.server.state = memory.server
        self.clients.states = dict(memory.clients)
