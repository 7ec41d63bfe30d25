"""Fleets and step times for tests of the simulator."""

from dataclasses import dataclass

from planner.simulator import ReplicaPool, ServingFleet, SizeShares


@dataclass(frozen=True, slots=True)
class LinearStepTimes:
    """Seconds a step, a prompt token, a query-key pair, a decoding sequence and a context token."""

    step: float = 0.0101
    prompt_token: float = 0.00013
    pair: float = 1.7e-7
    sequence: float = 0.00037
    context_token: float = 1.9e-6

    def step_seconds(self, batch):
        """Return the sum over what the batch holds."""
        return (
            self.step
            + self.prompt_token * batch.prefill_tokens
            + self.pair * batch.prefill_pairs
            + self.sequence * batch.decode_sequences
            + self.context_token * batch.decode_context_tokens
        )


def pool(name="a", num_replicas=1, **changes):
    """Return a pool of replicas with room for eight sequences unless told otherwise."""
    fields = {
        "market": "on-demand",
        "step_times": LinearStepTimes(),
        "kv_capacity_tokens": 2000,
        "max_sequences": 8,
        "max_batched_tokens": 64,
    }
    return ReplicaPool(name=name, num_replicas=num_replicas, **(fields | changes))


def fleet(*pools, row=None):
    """Return a fleet whose model has one input range, shared evenly unless a row is given."""
    row = row or tuple(1 / len(pools) for _ in pools)
    return ServingFleet(tuple(pools), {"m": SizeShares((1_000_000,), (tuple(row),))})
