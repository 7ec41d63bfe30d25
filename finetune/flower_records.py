"""Our values as Flower's records, and how an adapter travels in them."""

import io
import math
import tokenize
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Protocol

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from numpy.typing import NDArray

from finetune.factors import common_rank, resized
from finetune.seeded import EVERYTHING_CROSSES, Seeded
from finetune.traffic import Content
from finetune.updates import Tensors


def encode(tensors: Tensors) -> ArrayRecord:
    """Return the tensors as a Flower record."""
    return ArrayRecord({name: Array(np.asarray(tensor)) for name, tensor in tensors.items()})


def decode(record: ArrayRecord) -> dict[str, NDArray[np.float32]]:
    """Return a Flower record as arrays, whatever their shapes and types.

    Raises:
        ValueError: If an array's bytes are not numpy's, or not as many as its header says.
    """
    return {name: _values(array) for name, array in record.items()}


def _values(array: Array) -> NDArray[Any]:
    """Return an array's values; numpy's own reader would allocate whatever a header claims."""
    stream = io.BytesIO(array.data)
    try:
        if np.lib.format.read_magic(stream) != (1, 0):
            raise ValueError("an array is not in numpy's format 1.0")
        shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    except (tokenize.TokenError, SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(f"an array's header is no header ({type(error).__name__})") from None
    body = array.data[stream.tell() :]
    if dtype.hasobject or len(body) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"an array of shape {shape}, type {dtype} comes with {len(body)} bytes")
    order: Literal["F", "C"] = "F" if is_fortran else "C"
    return np.frombuffer(body, dtype).reshape(shape, order=order).copy()


def serialised_bytes(message: Message) -> int:
    """Return the length of the distinct objects Flower sends for this message.

    Flower stores objects by their hash, so equal arrays in one message travel once.
    """
    return sum(len(item.deflate()) for item in get_all_nested_objects(message).values())


def dense_record(tensors: Tensors, seeded: Seeded, *, round_number: int) -> RecordDict:
    """Return a message's content that holds an adapter, but for what is seeded."""
    crossing, facts = seeded.without(tensors)
    config = ConfigRecord({"round": round_number, **facts})
    return RecordDict({"arrays": encode(crossing), "config": config})


def received(record: RecordDict, seeded: Seeded) -> Tensors:
    """Return the adapter that `dense_record` put into a message.

    Raises:
        PayloadError: If this end's seeded tensors are not the sender's.
    """
    return seeded.completed(decode(record.array_records["arrays"]), record["config"])


def judge_record(tensors: Tensors | None, seeded: Seeded) -> RecordDict:
    """Return a request to judge an adapter; None asks for the base model, which nobody is sent."""
    if tensors is not None:
        return dense_record(tensors, seeded, round_number=0)
    return RecordDict({"config": ConfigRecord({"round": 0})})


class Exchange(Protocol):
    """How an adapter travels: whole, or its largest entries."""

    def downloads(
        self, tensors: Tensors, nodes: Iterable[int], *, round_number: int
    ) -> Mapping[int, RecordDict]:
        """Begin a round: return what each node is sent, the round's number in its `config`."""

    def update(self, node: int, reply: Message) -> Tensors:
        """Return a node's reply as a whole adapter; raise what `read_update` catches if it is none."""

    def content(self, record: RecordDict, *, is_upload: bool = False) -> Content:
        """Return what a message of `downloads`, or one that `update` has read, is made of."""

    def end_round(self) -> None:
        """Take note that no further reply counts."""


class DenseExchange:
    """All tensors, both ways, but for what the other end has or does not train."""

    def __init__(
        self, seeded: Seeded = EVERYTHING_CROSSES, ranks: Mapping[int, int] | None = None
    ) -> None:
        """Keep what is left out.

        Args:
            seeded: What every node made from the seed.
            ranks: Most components that a node trains; one without gets all.
        """
        self._seeded = seeded
        self._ranks = ranks or {}

    def downloads(
        self, tensors: Tensors, nodes: Iterable[int], *, round_number: int
    ) -> dict[int, RecordDict]:
        """Return the same content for nodes of one rank."""
        full = common_rank(tensors)
        ranks = {node: min(full, self._ranks.get(node, full)) for node in nodes}
        records = {
            rank: dense_record(resized(tensors, rank), self._seeded, round_number=round_number)
            for rank in sorted(set(ranks.values()))
        }
        return {node: records[rank] for node, rank in ranks.items()}

    def update(self, node: int, reply: Message) -> Tensors:
        """Return the reply's tensors."""
        return decode(reply.content.array_records["arrays"])

    def content(self, record: RecordDict, *, is_upload: bool = False) -> Content:
        """Return the bytes of the values; equal arrays of one message travel once."""
        arrays = record.array_records["arrays"].values()
        distinct = {array.data: _values(array).nbytes for array in arrays}
        return Content("tensors", sum(distinct.values()), index_bytes=0, is_whole=True)

    def end_round(self) -> None:
        """Nothing is remembered."""
