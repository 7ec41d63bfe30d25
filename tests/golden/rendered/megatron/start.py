"""Runs a script with the group of all ranks on sockets, since RDMA ends at the island."""

import runpy
import sys
from pathlib import Path

import torch.distributed as dist

begin = dist.init_process_group


def begin_on_sockets(*arguments, **settings):
    """Begin with NCCL's choice of network made for this one group."""
    options = dist.ProcessGroupNCCL.Options()
    options.config.net_name = "socket"
    return begin(*arguments, **({"pg_options": options} | settings))


dist.init_process_group = begin_on_sockets
sys.argv = sys.argv[1:]
sys.path.insert(0, str(Path(sys.argv[0]).parent))
runpy.run_path(sys.argv[0], run_name="__main__")
