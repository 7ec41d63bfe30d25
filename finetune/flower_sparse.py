"""A sparse job's payloads in Flower's messages: one array of bytes, and small numbers beside it."""

from collections.abc import Iterable

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from finetune.errors import PayloadError
from finetune.sparsity.parcel import Parcel
from finetune.sparsity.server import SparseServer
from finetune.traffic import Content
from finetune.updates import Tensors

_NAME = "sparse"
_TYPE = "motley.wire"
"""Name and serialisation of the array; `finetune/wire` has its form."""


class SparseExchange:
    """What the server sends and reads in a sparse job; see `flower.Exchange`."""

    def __init__(self, server: SparseServer) -> None:
        """Keep the server's end."""
        self._server = server

    def downloads(
        self, tensors: Tensors, nodes: Iterable[int], *, round_number: int
    ) -> dict[int, RecordDict]:
        """Return what each node is sent.

        Raises:
            PayloadError: If an entry does not fit the job's value type.
        """
        parcels = self._server.send(tensors, nodes, round_number=round_number)
        return {node: _record(parcel) for node, parcel in parcels.items()}

    def update(self, node: int, reply: Message) -> Tensors:
        """Return a node's reply as a whole adapter.

        Raises:
            KeyError, PayloadError: If it holds none.
        """
        return self._server.receive(node, read_parcel(reply.content))

    def answered(self, node: int) -> None:
        """Note that a node has read its download, though its update does not come by `update`."""
        self._server.answered(node)

    def content(self, record: RecordDict, *, is_upload: bool = False) -> Content:
        """Return what a message that was made or read here is made of."""
        return self._server.content_of(read_parcel(record), is_upload=is_upload)

    def end_round(self) -> None:
        """Remember what the nodes hold now."""
        self._server.end_round()


def pack_parcel(parcel: Parcel, record: RecordDict) -> None:
    """Put a payload into `record`, beside what its configuration says already."""
    array = Array("uint8", (len(parcel.data),), _TYPE, parcel.data)
    record["arrays"] = ArrayRecord({_NAME: array})
    record["config"].update(parcel.facts)


def read_parcel(record: RecordDict) -> Parcel:
    """Return the payload of a message.

    Raises:
        KeyError: If the message holds no arrays at all.
        PayloadError: If they are not a sparse payload.
    """
    array = record.array_records["arrays"].get(_NAME)
    if array is None or array.stype != _TYPE:
        raise PayloadError("is missing: the other end's job is not sparse")
    facts = {name: value for name, value in record["config"].items() if isinstance(value, int)}
    return Parcel(bytes(array.data), facts)


def _record(parcel: Parcel) -> RecordDict:
    record = RecordDict({"config": ConfigRecord()})
    pack_parcel(parcel, record)
    return record
