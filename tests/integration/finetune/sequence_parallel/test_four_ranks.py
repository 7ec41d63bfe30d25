"""Four processes over gloo against a plain loop in one."""

import time
from contextlib import ExitStack

import pytest
import torch
from rank_processes import start_ranks
from sequence_parallel_cases import CASES, WORLD_SIZE, plain_step
from torch.nn import functional


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


@pytest.mark.parametrize("name", ["llama-bfloat16", "llama-bfloat16-fsdp2"])
def test_bfloat16_is_near(found, name):
    """In bfloat16 the loss is within its rounding, and gradients point the same way."""
    loss, gradients = plain_step(CASES[name])
    assert found[0][name]["loss"] == pytest.approx(loss, rel=0.01)
    flat = torch.cat([gradient.flatten() for gradient in gradients.values()])
    ours = torch.cat([found[0][name]["gradients"][n].float().flatten() for n in gradients])
    assert functional.cosine_similarity(flat, ours, dim=0) > 0.995


def test_every_rank_gets_the_same(found):
    """Losses and gradients are equal to the bit on all ranks, so their weights stay equal."""
    for name in CASES:
        for rank in found[1:]:
            assert rank[name]["loss"] == found[0][name]["loss"]
            for weight, gradient in found[0][name]["gradients"].items():
                assert torch.equal(rank[name]["gradients"][weight], gradient)


def test_a_weight_without_a_gradient_on_all_ranks_stays_so(found):
    """The optimiser then leaves it alone, as in one process; one rank's gradient is everybody's."""
    for rank in found:
        everywhere, nowhere, once = rank["sums"]
        assert everywhere.tolist() == [6.0, 6.0]
        assert nowhere is None
        assert once.tolist() == [1.0, 1.0]


def test_communicators_are_kept(found):
    """Each set of ranks is joined once, however many steps and models use it."""
    wanted = {
        group.ranks
        for case in CASES.values()
        for part in case.plan.micro_batches
        for group in part.groups
        if 1 < group.degree < WORLD_SIZE
    }
    assert {rank["num_created"] for rank in found} == {len(wanted)}


def test_timings(found):
    """Each rank tells of its own groups: their degree, the sequences' lengths, the time."""
    timings = [rank["llama-idle"]["timings"] for rank in found]
    assert [[t[:2] for t in of_rank] for of_rank in timings] == [
        [(2, (13, 7, 5, 9, 3, 1))],
        [(2, (31,))],
        [(2, (13, 7, 5, 9, 3, 1)), (1, (6,))],
        [(2, (31,))],
    ]
    assert all(seconds > 0 for of_rank in timings for *_, seconds in of_rank)
