"""How many entries a round sends."""


def density(first: float, *, decay: float, every_rounds: int, round_number: int) -> float:
    """Return the share of entries sent in a round, counted from 1.

    Geometric: `first` is multiplied by `decay` after each `every_rounds` rounds.

    Source: FLASC (arXiv 2406.05233), the schedule of its reference code.
    """
    return float(first * decay ** ((round_number - 1) // every_rounds))


def num_kept(length: int, density: float) -> int:
    """Return how many of `length` entries a density in (0, 1] keeps: floor, but at least one."""
    return max(1, int(length * density))
