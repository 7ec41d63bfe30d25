"""Which parts of a job trust cannot go with, and why; asked when the job is read."""

from finetune.trust.config import TrustConfig


def conflict(
    trust: TrustConfig,
    *,
    is_mean_of_factors: bool,
    has_own_masks: bool,
    is_secure_sum: bool,
) -> str | None:
    """Return why the rest of a job does not go with its trust, or None.

    Args:
        trust: The job's `trust:` block.
        is_mean_of_factors: Whether the aggregation needs no more than the sum of the clients'
            factors, as FedAvg and frozen A do; corrections, decompositions and stacking need each
            client's own.
        has_own_masks: Whether each client chooses by its data which entries it sends (top-k).
        is_secure_sum: Whether the server sees the sum of the updates only.
    """
    if trust.privacy is not None and has_own_masks:
        return (
            "privacy hides values, but the positions each client sends come from its data too; "
            "send all entries, or those of a mask the server chose"
        )
    if not is_secure_sum:
        return None
    if has_own_masks:
        return "a secure sum adds entry by entry; send all entries, or those of a shared mask"
    if not is_mean_of_factors:
        return "this aggregation needs each client's factors, which a secure sum hides; take fedavg"
    if trust.robust is not None:
        return f"{trust.robust.kind} compares single updates, which a secure sum hides; drop one"
    if trust.most_norm is not None or trust.most_product_norm is not None:
        return "a secure sum hides how long an update is; drop most_norm and most_product_norm"
    return None
