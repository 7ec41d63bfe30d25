"""The policies by kind, and the one a configuration asks for."""

from collections.abc import Callable

from router.base import Policy
from router.policies.bounded_load import BoundedLoad
from router.policies.least_outstanding import LeastOutstanding
from router.policies.power_of_two import PowerOfTwo
from router.policies.prefix_aware import PrefixAware
from router.policies.round_robin import RoundRobin
from router.policy_config import (
    BoundedLoadConfig,
    PolicyConfig,
    PowerOfTwoConfig,
    PrefixAwareConfig,
    RoundRobinConfig,
)


def default_policy(*, num_workers: int) -> PolicyConfig:
    """Return what is used where the file names no policy.

    One worker sees every request, so it knows what each replica has read; several would each know a
    part of it, and agree by hashing instead.
    """
    return PrefixAwareConfig() if num_workers == 1 else BoundedLoadConfig()


def make_policy(config: PolicyConfig, draw: Callable[[], float]) -> Policy:
    """Return the policy of `config`; `draw` gives numbers uniform in [0, 1)."""
    match config:
        case PrefixAwareConfig():
            return PrefixAware(config, draw)
        case BoundedLoadConfig():
            return BoundedLoad(config)
        case PowerOfTwoConfig():
            return PowerOfTwo(draw)
        case RoundRobinConfig():
            return RoundRobin()
        case _:
            return LeastOutstanding()
