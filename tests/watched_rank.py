"""One process of a watched world: adds numbers up with the others until something happens."""

import ctypes
import json
import sys
import time

import torch
import torch.distributed as dist

from finetune.errors import FinetuneError
from finetune.sequence_parallel.distributed import distributed_job
from finetune.sequence_parallel.rank_watch import RankWatch


def say(line):
    """Write a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def work(wish, rank):
    """Take part in collectives; fail, hold the interpreter or end as wished."""
    began = time.monotonic()
    while True:
        dist.all_reduce(torch.ones(8))
        seconds = time.monotonic() - began
        if seconds > 0.5:
            say("working")
        if wish.get("failing") is not None and seconds > 1 and rank in wish["failing"]:
            raise FinetuneError(f"rank {rank} has no sequences; give it some")
        if wish.get("holding") == rank and seconds > 1:
            ctypes.PyDLL(None).sleep(wish["holding_seconds"])  # this call keeps the interpreter
            wish["holding"] = None
        if wish.get("step_seconds"):
            time.sleep(wish["step_seconds"])
        stops = torch.tensor(float(rank == 0 and seconds > wish.get("run_seconds", 300)))
        dist.all_reduce(stops)
        if stops > 0:
            return


def main(wish):
    """Run in a watch; one line for a failure of ours, as the command line does."""
    try:
        with distributed_job("cpu"):
            rank = dist.get_rank()
            host = f"host-{rank}" if wish.get("apart") else None
            with RankWatch(patience_seconds=wish["patience_seconds"], host=host):
                work(wish, rank)
                time.sleep(wish.get("late_seconds", 0) * rank)
        say("ended")
    except FinetuneError as error:
        say(error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
