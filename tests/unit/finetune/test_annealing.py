"""The ranks of a job's rounds."""

import pytest

from finetune.annealing import rank_of_round, stage_ranks


@pytest.mark.parametrize(
    ("rank", "final_rank", "ranks"),
    [
        (64, 8, [64, 32, 16, 8]),
        (64, 7, [64, 32, 16, 8, 7]),
        (6, 1, [6, 3, 2, 1]),
        (5, 4, [5, 4]),
        (4, 4, [4]),
    ],
)
def test_ranks_are_halved_down_to_the_last(rank, final_rank, ranks):
    """Odd ranks are rounded up, and none falls below the last."""
    assert stage_ranks(rank, final_rank) == ranks


def test_stages_share_the_rounds_and_the_last_one_trains():
    """Eight rounds of four stages: two each; the result has the last round's rank."""
    words = {"rank": 64, "final_rank": 8, "num_rounds": 8}
    ranks = [rank_of_round(number, **words) for number in range(1, 10)]
    assert ranks == [64, 64, 32, 32, 16, 16, 8, 8, 8]


@pytest.mark.parametrize("num_rounds", range(4, 12))
def test_every_stage_has_a_round(num_rounds):
    """However the rounds divide, ranks fall from the first to the last and skip none."""
    words = {"rank": 64, "final_rank": 8, "num_rounds": num_rounds}
    ranks = [rank_of_round(number, **words) for number in range(1, num_rounds + 1)]
    assert list(dict.fromkeys(ranks)) == [64, 32, 16, 8]
    assert ranks == sorted(ranks, reverse=True)
