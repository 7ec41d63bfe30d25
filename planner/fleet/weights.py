"""Shares as integer weights, for routers that take no fractions."""

from collections.abc import Mapping


def integer_weights(shares: Mapping[str, float], *, total: int) -> dict[str, int]:
    """Return weights that sum to `total`, by largest remainder; a share above 0 weighs at least 1.

    What the least weights of 1 take beyond their share is taken from the largest weight.

    Args:
        shares: By name, summing to 1.
        total: Sum of the weights, at least the number of shares above 0.

    Raises:
        ValueError: If there are more shares than `total`.
    """
    kept = {name: share for name, share in shares.items() if share > 0}
    if len(kept) > total:
        raise ValueError(f"{len(kept)} shares do not fit weights that sum to {total}; raise it")
    weights = {name: max(1, int(share * total)) for name, share in kept.items()}
    by_remainder = sorted(kept, key=lambda name: (-(kept[name] * total % 1), name))
    for name in by_remainder:
        if sum(weights.values()) >= total:
            break
        if kept[name] * total >= 1:
            weights[name] += 1
    while (excess := sum(weights.values()) - total) != 0:
        largest = max(weights, key=lambda name: (weights[name], name))
        weights[largest] -= 1 if excess > 0 else -1
    return weights
