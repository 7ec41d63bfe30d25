"""Which other parts of a job its trust cannot go with, and why; asked when the job is read."""

from finetune.trust.config import TrustConfig


def conflict(trust: TrustConfig, *, is_mean_of_factors: bool, has_own_masks: bool) -> str | None:
    """Return why the rest of a job does not go with its trust, or None.

    Args:
        trust: The job's `trust:` block.
        is_mean_of_factors: Whether the aggregation needs no more than the sum of the clients'
            factors, as FedAvg and frozen A do; corrections, decompositions and stacking need each
            client's own.
        has_own_masks: Whether each client chooses by its data which entries it sends (top-k).
    """
    if trust.privacy is not None and has_own_masks:
        return (
            "privacy hides values, but the positions each client sends come from its data too; "
            "send all entries, or those of a mask the server chose"
        )
    if trust.averages_entries and not is_mean_of_factors:
        return (
            "privacy, the median and the trimmed mean average entry by entry, which leaves this "
            "aggregation nothing to do; take fedavg"
        )
    if trust.secure_sum is None:
        return None
    if has_own_masks:
        return "a secure sum adds entry by entry; send all entries, or those of a shared mask"
    if not is_mean_of_factors:
        return "this aggregation needs each client's factors, which a secure sum hides; take fedavg"
    return None
