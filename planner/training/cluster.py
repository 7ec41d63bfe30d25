"""The cluster a training job runs on: islands of nodes of devices, and what joins them.

Ranks count devices: islands in the order of the file, in them nodes, in those devices.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import ByteSize, Field, model_validator

from planner.config import StrictModel
from planner.hardware.gpu_spec import PerSecond
from planner.units import Name, Number

Nic = Literal["infiniband", "roce", "ethernet"]
"""What joins the nodes of an island. The first two are RDMA and do not talk to each other."""

Seconds = Annotated[Number, Field(ge=0, le=10)]
"""A latency."""

MOST_DEVICES = 65536


class Island(StrictModel):
    """Nodes of one kind of device in one RDMA network, or on one Ethernet."""

    name: Name
    """Unique in the cluster."""
    num_nodes: Annotated[int, Field(gt=0, le=MOST_DEVICES)] = 1
    """Nodes, all alike."""
    devices_per_node: Annotated[int, Field(gt=0, le=1024)]
    """Devices of one node."""
    device: Name
    """What they are; a name of the list of devices where a model's costs are to be estimated."""
    memory_bytes: Annotated[ByteSize, Field(gt=0)]
    """Memory of one device that training may fill, such as `30GiB`; less than the device has."""
    relative_speed: Annotated[Number, Field(gt=0, le=1e4)] = 1.0
    """Arithmetic a second, as a multiple of the device that the costs were measured on."""
    node_bytes_per_second: PerSecond
    """Link of one device to the others of its node, one direction."""
    nic: Nic = "ethernet"
    """What joins the nodes."""
    nic_bytes_per_second: PerSecond
    """Share of the network that one device has, one direction."""
    nic_latency_seconds: Seconds = 0.0
    """Of one message between two nodes of the island."""
    nic_devices: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_=^:,]+$")
    """RDMA adapters of a node, such as `mlx5_0,mlx5_1`, for rendered launch commands."""
    nic_gid_index: Annotated[int, Field(ge=0, le=255)] | None = None
    """RoCE's GID index, for rendered launch commands; commonly 3."""
    socket_interface: str | None = Field(default=None, pattern=r"^[A-Za-z0-9._=^:,-]+$")
    """Network interface of plain sockets, such as `eth0`, for rendered launch commands."""

    @property
    def num_devices(self) -> int:
        """Devices of all nodes."""
        return self.num_nodes * self.devices_per_node


@dataclass(frozen=True, slots=True)
class Device:
    """One rank's place."""

    rank: int
    island: int
    """Position of its island in the cluster."""
    node: int
    """Position of its node among all nodes of the cluster."""
    memory_bytes: int
    relative_speed: float


class Cluster(StrictModel):
    """Every device a job may use."""

    schema_version: Literal[1]
    """Version of this file's layout."""
    islands: tuple[Island, ...] = Field(min_length=1)
    """Networks, in the order in which their devices are numbered."""
    between_islands_bytes_per_second: PerSecond | None = None
    """Ethernet between islands: share of one device, one direction. Required with several."""
    between_islands_latency_seconds: Seconds = 0.0
    """Of one message between two islands."""

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        names = [island.name for island in self.islands]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"islands: {name!r} stands {names.count(name)} times; rename one")
        if len(names) > 1 and self.between_islands_bytes_per_second is None:
            raise ValueError(
                f"between_islands_bytes_per_second: is missing with {len(names)} islands; add it"
            )
        if self.num_devices > MOST_DEVICES:
            raise ValueError(f"islands: {self.num_devices} devices; at most {MOST_DEVICES}")
        return self

    @property
    def num_devices(self) -> int:
        """Devices of all islands."""
        return sum(island.num_devices for island in self.islands)

    @cached_property
    def devices(self) -> tuple[Device, ...]:
        """Every device, by rank."""
        found: list[Device] = []
        node = 0
        for position, island in enumerate(self.islands):
            for _ in range(island.num_nodes):
                for _ in range(island.devices_per_node):
                    memory, speed = int(island.memory_bytes), island.relative_speed
                    found.append(Device(len(found), position, node, memory, speed))
                node += 1
        return tuple(found)

    def with_islands(self, islands: Iterable[Island]) -> "Cluster":
        """Return a cluster of these islands with the same link between them."""
        # A copy would keep the list of this one's devices.
        return Cluster(
            schema_version=1,
            islands=tuple(islands),
            between_islands_bytes_per_second=self.between_islands_bytes_per_second,
            between_islands_latency_seconds=self.between_islands_latency_seconds,
        )

    def link_bytes_per_second(self, ranks: Iterable[int]) -> float:
        """Return the worst link among the ranks, one device and direction.

        Within a node its own link; within an island the slower of that and the network; across
        islands Ethernet, whatever their networks (Holmes, arXiv 2312.03549, rule 2).
        """
        members = [self.devices[rank] for rank in ranks]
        islands = {member.island for member in members}
        worst = min(self.islands[i].node_bytes_per_second for i in islands)
        if len({member.node for member in members}) > 1:
            worst = min(worst, *(self.islands[i].nic_bytes_per_second for i in islands))
        if len(islands) > 1:
            assert self.between_islands_bytes_per_second is not None  # checked on reading
            worst = min(worst, self.between_islands_bytes_per_second)
        return worst
