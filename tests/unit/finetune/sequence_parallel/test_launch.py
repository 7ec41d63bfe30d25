"""What launchers say in the environment."""

import pytest

from finetune.errors import DeviceError, SequenceParallelError
from finetune.sequence_parallel.distributed import Launch, distributed_job, launch_of

WORDS = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def test_no_launcher():
    """Without one there is a single process, also under a batch system that speaks of MPI."""
    assert launch_of({}) is None
    assert launch_of({"PMI_RANK": "0", "PMI_SIZE": "1"}) is None


def test_torchrun():
    """Ranks are taken as they are said; without a local one the rank itself serves."""
    assert launch_of(WORDS | {"LOCAL_RANK": "0"}) == Launch(rank=1, world_size=4, local_rank=0)
    assert launch_of(WORDS) == Launch(rank=1, world_size=4, local_rank=1)


def test_mpirun():
    """The words of mpirun count beside an address, as accelerate gives it."""
    words = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
        "OMPI_COMM_WORLD_RANK": "3",
        "OMPI_COMM_WORLD_SIZE": "8",
        "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    }
    assert launch_of(words) == Launch(rank=3, world_size=8, local_rank=1)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is set and RANK, MASTER_ADDR, MASTER_PORT not"),
        (WORDS | {"MASTER_PORT": ""}, "RANK is set and MASTER_PORT not"),
        (WORDS | {"RANK": "first"}, "RANK='first' is no count"),
        (WORDS | {"RANK": "4"}, "RANK 4 with WORLD_SIZE 4"),
    ],
)
def test_words_that_are_not_whole(words, told):
    """A part that lacks or is wrong is named in one line."""
    with pytest.raises(SequenceParallelError, match=told):
        launch_of(words)


def test_more_processes_than_gpus(monkeypatch):
    """A process without a GPU of its own is refused before it meets the others."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with (
        pytest.raises(DeviceError, match="LOCAL_RANK 1 and 1 GPUs"),
        distributed_job("cuda", environment=WORDS),
    ):
        pass


def test_alone():
    """One process without a launcher gets its device, and torch.distributed stays off."""
    import torch.distributed as dist

    with distributed_job("cpu", environment={}) as device:
        assert device.type == "cpu"
        assert not dist.is_initialized()
