"""The processes of a distributed job on this machine, started as a launcher does."""

import sys

from child_processes import REPOSITORY, Child, free_port


def start_ranks(stack, script, folder, *, world_size, words=()):
    """Start a script of `tests/` once for each rank; their output goes to the folder."""
    port = free_port()
    return [
        Child(
            stack,
            [
                "env",
                f"RANK={rank}",
                f"LOCAL_RANK={rank}",
                f"WORLD_SIZE={world_size}",
                "MASTER_ADDR=127.0.0.1",
                f"MASTER_PORT={port}",
                sys.executable,
                f"{REPOSITORY}/tests/{script}",
                *words,
            ],
            folder / f"rank-{rank}.log",
        )
        for rank in range(world_size)
    ]
