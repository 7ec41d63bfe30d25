"""A profiled replica in the form that planning and simulation take: speed of a step, and limits."""

from planner.errors import ProfileError
from planner.profiling.fitted_steps import fitted_replica
from planner.profiling.profile import Profile
from planner.speed.replica_speed import ReplicaSpeed


def fitted_speed(
    profile: Profile,
    *,
    max_batched_tokens: int,
    max_sequences: int | None = None,
    kv_capacity_tokens: int | None = None,
    max_context_tokens: int | None = None,
) -> ReplicaSpeed:
    """Return a replica's speed as fitted to its profile, with its limits.

    Args:
        profile: Of a live endpoint.
        max_batched_tokens: Tokens of one step; no endpoint tells it.
        max_sequences: Sequences at once; nothing: as the profile observed.
        kv_capacity_tokens: Tokens of KV memory; likewise.
        max_context_tokens: Longest sequence; likewise.

    Raises:
        ProfileError: If the profile cannot be fitted, a limit is neither given nor observed, or more
            sequences ran at once than fit a step.
    """
    given = {
        "max_sequences": max_sequences,
        "kv_capacity_tokens": kv_capacity_tokens,
        "max_context_tokens": max_context_tokens,
    }
    limits = {name: value or getattr(profile.limits, name) for name, value in given.items()}
    missing = [name for name, value in limits.items() if value is None]
    if missing:
        raise ProfileError(
            f"the profile of {profile.model} on {profile.gpu} did not observe "
            f"{', '.join(missing)}; give what the endpoint was started with"
        )
    if limits["max_sequences"] > max_batched_tokens:
        raise ProfileError(
            f"the profile of {profile.model} on {profile.gpu} ran {limits['max_sequences']} sequences "
            f"at once, over the {max_batched_tokens} of max_batched_tokens; raise it"
        )
    fitted = fitted_replica(profile, most_prefill_tokens=max_batched_tokens)
    return ReplicaSpeed(
        step_times=fitted.step_times,
        max_batched_tokens=max_batched_tokens,
        request_overhead_seconds=fitted.request_overhead_seconds,
        **limits,
    )
