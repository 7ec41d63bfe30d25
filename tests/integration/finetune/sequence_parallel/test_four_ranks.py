"""Four processes over gloo against a plain loop in one."""

import time
from contextlib import ExitStack

import pytest
import torch
from rank_processes import start_ranks
from sequence_parallel_cases import CASES, WORLD_SIZE, plain_step


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What each rank got of each case; one world runs them all."""
    folder = tmp_path_factory.mktemp("ranks")
    with ExitStack() as stack:
        ranks = start_ranks(
            stack, "sequence_parallel_rank.py", folder, world_size=WORLD_SIZE, words=[str(folder)]
        )
        until = time.monotonic() + 240
        for rank in ranks:
            assert rank.wait(until=until) == 0, rank.output
    return [torch.load(folder / f"{rank}.pt") for rank in range(WORLD_SIZE)]


@pytest.mark.parametrize("name", [n for n, case in CASES.items() if case.precision == "float32"])
def test_equals_plain_training(found, name):
    """Loss and every gradient are those of one process that takes sequence after sequence."""
    loss, gradients = plain_step(CASES[name])
    for rank in found:
        assert rank[name]["loss"] == pytest.approx(loss, abs=1e-5)
        assert rank[name]["gradients"].keys() == gradients.keys()
        for weight, gradient in gradients.items():
            torch.testing.assert_close(
                rank[name]["gradients"][weight], gradient, atol=1e-6, rtol=1e-5, msg=weight
            )
