"""The server's end: what each client is sent, and its reply as a whole adapter again.

The server's own adapter stays dense. A reply becomes that adapter plus the client's change, so
aggregation sees whole adapters and knows nothing of masks: the mean of these is the dense adapter
plus the mean change.

Source: FLASC (arXiv 2406.05233), section 2.2. Sending the change since what a client holds is an
addition: what was not sent is the difference that remains, and is among the next round's candidates.
"""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from finetune.errors import PayloadError
from finetune.factors import common_rank
from finetune.seeded import EVERYTHING_CROSSES, Seeded
from finetune.sparsity.client import Copy
from finetune.sparsity.config import SparsityConfig
from finetune.sparsity.density import density, num_kept
from finetune.sparsity.layout import Layout
from finetune.sparsity.parcel import Parcel, changed, difference, largest_sent
from finetune.sparsity.settlement import NO_RECEIPT, RECEIPT_FACT, upload_number
from finetune.sparsity.shared_mask import shared_positions
from finetune.traffic import Content
from finetune.updates import Tensors
from finetune.wire.message import decode, sizes_of

logger = logging.getLogger(__name__)

Vector = NDArray[np.float32]

FIRST_COPY = 0
"""Number of the adapter that nobody has to be sent: copies that are sent count from 1."""


@dataclass(frozen=True, slots=True)
class ServerState:
    """What the server remembers of its clients.

    Attributes:
        copies: Adapters that clients hold, by number.
        held: The number of the copy that each node holds. While no copy was sent yet, all nodes
            hold copy 0, if there is one: the adapter that each makes from the job's seed.
        last_copy: The highest number given so far.
        basis: Counts the changes of the adapter's basis; see `rebased`.
        receipts: The number of the last upload that was taken of each node; see `settlement`.
    """

    copies: Mapping[int, Vector] = field(default_factory=dict)
    held: Mapping[int, int] = field(default_factory=dict)
    last_copy: int = FIRST_COPY
    basis: int = 0
    receipts: Mapping[int, int] = field(default_factory=dict)

    def base_of(self, node: int) -> int | None:
        """Return the number of the copy that a node holds, or None if none is known."""
        holds_first = self.last_copy == FIRST_COPY and FIRST_COPY in self.copies
        return self.held.get(node, FIRST_COPY if holds_first else None)

    def rebased(self) -> "ServerState":
        """Return the state after a squeeze or a change of basis: nobody holds anything of it.

        Receipts stay. A client that holds its old copy carries its residual over (`rebasing.py`),
        another drops it.
        """
        return ServerState(last_copy=self.last_copy, basis=self.basis + 1, receipts=self.receipts)


@dataclass(frozen=True, slots=True)
class Download:
    """What a node is sent.

    Attributes:
        parcel: The message's payload.
        copy: The adapter that the node trains from.
    """

    parcel: Parcel
    copy: Copy


def make_downloads(
    state: ServerState,
    adapter: Vector,
    nodes: Iterable[int],
    config: SparsityConfig,
    *,
    round_number: int,
    facts: Mapping[str, int] | None = None,
) -> dict[int, Download]:
    """Return what each node is sent; nodes that hold the same copy are sent the same bytes.

    Args:
        state: What the nodes hold.
        adapter: The server's, dense, shape (length,).
        nodes: Who takes part.
        config: Density, value type, encoding.
        round_number: Counts from 1.
        facts: What else each download says.

    Raises:
        PayloadError: If an entry does not fit the value type.
    """
    share = density(
        config.download_density,
        decay=config.download_decay,
        every_rounds=config.decay_every_rounds,
        round_number=round_number,
    )
    is_exact = num_kept(len(adapter), share) == len(adapter) and config.download_values == "float32"
    made: dict[int | None, Download] = {}
    downloads = {}
    for node in nodes:
        base = None if config.download == "weights" or is_exact else state.base_of(node)
        if base not in made:
            made[base] = _download(
                adapter,
                None if base is None else Copy(base, state.copies[base]),
                config,
                share=1.0 if base is None and config.download == "change" else share,
                facts={"round": round_number, "basis": state.basis, **(facts or {})},
                number=state.last_copy + 1 + len(made),
            )
        downloads[node] = made[base]
    return downloads


def read_upload(
    upload: Parcel,
    start: Vector,
    adapter: Vector,
    positions: NDArray[np.int64] | None = None,
) -> Vector:
    """Return the server's adapter with a client's change, shape (length,).

    Args:
        upload: The client's reply.
        start: What the client trained from, shape (length,).
        adapter: The server's, shape (length,).
        positions: The entries it is of, where all clients send the same; None where it says.

    Raises:
        PayloadError: If the reply is malformed.
    """
    if positions is None:
        vector = decode(upload.data, length=len(adapter))
    elif upload.is_whole and len(positions) < len(adapter):
        raise PayloadError("holds weights, where changes of a shared mask are asked for")
    else:
        vector = np.zeros(len(adapter), np.float32)
        vector[positions] = decode(upload.data, length=len(positions))
    if not upload.is_whole:
        return changed(adapter, vector)
    # Where client and server began alike there is nothing to subtract, and nothing is rounded.
    return np.where(start == adapter, vector, changed(adapter, difference(vector, start)))


def settled(
    state: ServerState,
    downloads: Mapping[int, Download],
    answered: set[int],
    config: SparsityConfig,
) -> ServerState:
    """Return the state after a round.

    A node whose answer could not be used may hold the old copy or the new one, or be gone: it is
    sent the whole adapter next. So is one whose copy is older than the `kept_copies` newest.

    Args:
        state: Before the round.
        downloads: What was sent.
        answered: Nodes that answered.
        config: The mode, and how many copies are kept.
    """
    if config.download == "weights":
        return state
    held = {node: copy for node, copy in state.held.items() if node not in downloads}
    held |= {node: downloads[node].copy.number for node in answered}
    copies = dict(state.copies) | {d.copy.number: d.copy.vector for d in downloads.values()}
    newest = set(sorted(set(held.values()), reverse=True)[: config.kept_copies])
    forgotten = sorted(node for node in {*state.held, *downloads} if held.get(node) not in newest)
    if forgotten:
        logger.info("adapter goes whole to nodes=%s: no base of theirs is known", forgotten)
    return replace(
        state,
        copies={number: copies[number] for number in sorted(newest)},
        held={node: number for node, number in sorted(held.items()) if number in newest},
        last_copy=max([state.last_copy, *copies]),
    )


class SparseServer:
    """The functions above around a state, a round at a time."""

    def __init__(
        self,
        layout: Layout,
        config: SparsityConfig,
        state: ServerState | None = None,
        *,
        seeded: Seeded = EVERYTHING_CROSSES,
        gives_receipts: bool = False,
    ) -> None:
        """Begin where `state` stands.

        Args:
            layout: Of the job's first adapter, without what is seeded.
            config: The job's.
            state: What it remembers of its clients.
            seeded: Tensors that every client made from the seed, and no message carries.
            gives_receipts: Whether each node is told which of its uploads was taken last; clients
                in the server's own process know it.
        """
        self._first_layout = self._layout = layout
        self._config = config
        self._seeded = seeded
        self.state = state or ServerState()
        self._adapter = np.zeros(0, np.float32)
        self._downloads: dict[int, Download] = {}
        self._answered: set[int] = set()
        self._positions: NDArray[np.int64] | None = None
        self._gives_receipts = gives_receipts
        self._receipts: dict[int, int] = {}
        self._round = 0

    def send(
        self, tensors: Tensors, nodes: Iterable[int], *, round_number: int
    ) -> dict[int, Parcel]:
        """Begin a round: return what each node is sent.

        Where the adapter's rank fell, nobody holds anything of the new one.

        Raises:
            PayloadError: If an entry does not fit the value type.
        """
        self._layout = self._first_layout.at_rank(common_rank(tensors))
        self._adapter = self._layout.flat(tensors)
        length = self._layout.length
        if any(len(copy) != length for copy in self.state.copies.values()):
            self.state = self.state.rebased()
            logger.info("basis changed round=%d basis=%d", round_number, self.state.basis)
        self._positions = None
        if self._config.mask == "shared":
            self._positions = shared_positions(length, self._config, round_number=round_number)
        self._answered, self._receipts, self._round = set(), {}, round_number
        self._downloads = make_downloads(
            self.state,
            self._adapter,
            nodes,
            self._config,
            round_number=round_number,
            facts=self._facts(tensors),
        )
        parcels = {node: download.parcel for node, download in self._downloads.items()}
        if not self._gives_receipts:
            return parcels
        return {node: self._with_receipt(parcel, node) for node, parcel in parcels.items()}

    def receive(self, node: int, upload: Parcel) -> Tensors:
        """Return a node's update as a whole adapter.

        Raises:
            PayloadError: If it is malformed, or the node was sent nothing in this round.
        """
        if node not in self._downloads:
            raise PayloadError(f"comes from node {node}, which was sent nothing")
        start = self._downloads[node].copy.vector
        vector = read_upload(upload, start, self._adapter, self._positions)
        self.answered(node)
        if self._gives_receipts:
            self._receipts[node] = upload_number(upload.data, round_number=self._round)
            logger.info("upload taken node=%d upload=%014x", node, self._receipts[node])
        return self._layout.tensors(vector)

    def answered(self, node: int) -> None:
        """Note that a node has read what it was sent."""
        if node in self._downloads:
            self._answered.add(node)

    def content_of(self, parcel: Parcel, *, is_upload: bool = False) -> Content:
        """Return what a parcel that was made or read here is made of."""
        length = self._layout.length
        if is_upload and self._positions is not None:
            length = len(self._positions)
        sizes = sizes_of(parcel.data, length=length)
        return Content(sizes.encoding, sizes.values_bytes, sizes.index_bytes, parcel.is_whole)

    def end_round(self) -> None:
        """Remember what the nodes hold now."""
        state = settled(self.state, self._downloads, self._answered, self._config)
        self.state = replace(state, receipts={**self.state.receipts, **self._receipts})

    def _with_receipt(self, parcel: Parcel, node: int) -> Parcel:
        receipt = self.state.receipts.get(node, NO_RECEIPT)
        return replace(parcel, facts={**parcel.facts, RECEIPT_FACT: receipt})

    def _facts(self, tensors: Tensors) -> dict[str, int]:
        """Return what a download says beside round and basis: only what clients cannot know."""
        _, facts = self._seeded.without(tensors)
        if self._layout != self._first_layout:
            facts = facts | {"rank": common_rank(tensors)}
        return facts


def _download(
    adapter: Vector,
    base: Copy | None,
    config: SparsityConfig,
    *,
    share: float,
    facts: Mapping[str, int],
    number: int,
) -> Download:
    sent = largest_sent(
        adapter if base is None else difference(adapter, base.vector),
        density=share,
        value_type=config.download_values,
        encoding=config.encoding,
    )
    facts = dict(facts) | {"is_whole": int(base is None)}
    if config.download == "change":
        facts |= {"copy": number}
    if base is not None:
        facts |= {"base": base.number, "base_checksum": base.checksum}
    vector = sent.vector if base is None else changed(base.vector, sent.vector)
    return Download(Parcel(sent.data, facts), Copy(number, vector))
