"""NCCL's settings by island: each group takes the network that the placement gave it.

Variables hold for a whole process, so they only say which adapters there are. Where the pipeline
crosses islands, whose RDMA networks do not reach each other, groups across must take sockets while
those inside stay on RDMA: Megatron-LM is told so group by group, torchtitan cannot be told.
"""

from collections.abc import Mapping

from planner.render.training_job import TrainingJob

INSIDE_GROUPS = (
    "tp",
    "cp",
    "dp",
    "dp_cp",
    "tp_cp",
    "tp_dp",
    "tp_dp_cp",
    "ep",
    "ep_tp",
    "ep_dp",
    "tp_ep_mp",
)
"""Megatron-LM's names of the groups inside an island (`megatron/core/parallel_state.py`)."""

ACROSS_GROUPS = ("pp", "mp", "embd", "pos_embd", "tp_ep_pp", "intra_dist_opt_instance")
"""Its names of the groups that hold ranks of several stages."""


def network_variables(job: TrainingJob, island: int, *, sockets_only: bool) -> Mapping[str, str]:
    """Return the environment of an island's processes.

    Args:
        job: What is rendered.
        island: Position of the island.
        sockets_only: Whether no group may use RDMA.
    """
    spec = job.island(island)
    variables: dict[str, str] = {}
    if spec.socket_interface is not None:
        variables["NCCL_SOCKET_IFNAME"] = spec.socket_interface
        variables["GLOO_SOCKET_IFNAME"] = spec.socket_interface
    if sockets_only or spec.nic == "ethernet":
        return variables | {"NCCL_IB_DISABLE": "1", "NCCL_NET": "Socket"}
    variables["NCCL_IB_DISABLE"] = "0"
    if not job.crosses_islands:
        variables["NCCL_NET"] = "IB"  # with several, this would overrule what groups are told
    if spec.nic_devices is not None:
        variables["NCCL_IB_HCA"] = spec.nic_devices
    if spec.nic_gid_index is not None:
        variables["NCCL_IB_GID_INDEX"] = str(spec.nic_gid_index)
    return variables


def group_networks(job: TrainingJob, island: int) -> Mapping[str, Mapping[str, str]]:
    """Return Megatron-LM's NCCL settings by group, for the processes of an island."""
    inside = "socket" if job.island(island).nic == "ethernet" else "IB"
    return {name: {"net_name": inside} for name in INSIDE_GROUPS} | {
        name: {"net_name": "socket"} for name in ACROSS_GROUPS
    }


def network_remarks(job: TrainingJob) -> list[str]:
    """Return what the cluster's file left open, a sentence each."""
    remarks = []
    for position in job.islands:
        spec = job.island(position)
        if spec.nic == "roce" and spec.nic_gid_index is None:
            remarks.append(
                f"Island {spec.name} has RoCE without `nic_gid_index`: set NCCL_IB_GID_INDEX, "
                "commonly 3, or say it in the cluster's file and render again"
            )
        if job.crosses_islands and spec.socket_interface is None:
            remarks.append(
                f"Island {spec.name} has no `socket_interface`: NCCL guesses the interface that "
                "reaches the other islands; set NCCL_SOCKET_IFNAME where it guesses wrong"
            )
    return remarks
