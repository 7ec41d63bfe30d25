"""Both ends of a sparse job that runs in one process."""

from finetune.sparsity.client import SparseClients
from finetune.sparsity.config import SparsityConfig
from finetune.sparsity.layout import Layout
from finetune.sparsity.memory import SparseMemory
from finetune.sparsity.server import SparseServer
from finetune.updates import Tensors


class SparseEnds:
    """The server's end and the clients', remembered and restored together."""

    def __init__(self, adapter: Tensors, config: SparsityConfig) -> None:
        """Begin with nothing remembered."""
        layout = Layout.of(adapter)
        self.server = SparseServer(layout, config)
        self.clients = SparseClients(layout, config)

    @property
    def memory(self) -> SparseMemory:
        """What both ends remember, as a value."""
        return SparseMemory(self.server.state, dict(self.clients.states))

    def restore(self, memory: SparseMemory) -> None:
        """Go on from what `memory` said."""
        self.server.state = memory.server
        self.clients.states = dict(memory.clients)
