"""Ranks that fall during training: halved stage by stage, each stage an equal share of the rounds.

The schedule is our reading of LoRA-Squeeze's In-Squeeze (arXiv 2602.10993): training goes on at the
last rank, and alpha falls with the rank, so that the scale of the products stays.
"""


def stage_ranks(rank: int, final_rank: int) -> list[int]:
    """Return the ranks from the first to the last: halves, rounded up, and never below the last."""
    ranks = [rank]
    while ranks[-1] > final_rank:
        ranks.append(max(final_rank, (ranks[-1] + 1) // 2))
    return ranks


def rank_of_round(round_number: int, *, rank: int, final_rank: int, num_rounds: int) -> int:
    """Return the rank that clients train in a round; beyond the last round, that of the result.

    Args:
        round_number: Counts from 1.
        rank: Of the first round.
        final_rank: Of the last round, at most `rank`.
        num_rounds: At least as many as there are stages.
    """
    ranks = stage_ranks(rank, final_rank)
    stage = (round_number - 1) * len(ranks) // num_rounds
    return ranks[min(stage, len(ranks) - 1)]
