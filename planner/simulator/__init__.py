"""A discrete-event simulator of a fleet under continuous batching; these are its rules.

Notation
    A request has p prompt tokens (`input_tokens`) and n tokens to emit (`output_tokens`); g of them
    are out. A sequence is a request that a replica has admitted.

Routing
    (R1) Requests are routed when they arrive, in the order of the trace. For each, one uniform draw
         picks a pool by the shares of its (model, input size); n is not looked at. A size past the
         last bound has the last bound's shares.
    (R2) Within the pool it goes to the replica with the fewest requests routed and not completed;
         among equals to the one picked longest ago, then to the first.

Time
    (T1) A replica computes steps back to back while it has work. An idle replica starts a step the
         instant a request reaches it.
    (T2) What happens at one instant: steps end, then the next steps of the same replicas start, then
         requests arrive. So a request that arrives just as a step ends misses the next one.

One step
    (S1) Decoding: every sequence whose prefill is complete computes one token. It takes one token of
         the step's budget and one more token of KV memory.
    (S2) Eviction: while the KV memory in use and the growth of (S1) exceed the capacity, the
         sequence admitted last leaves, whether it prefills or decodes. It frees its memory, keeps
         its g tokens, and stands first in the queue. A step that evicts skips (S3) and (S4).
    (S3) Prompt chunks: what (S1) leaves of the budget goes first to the one sequence that may be
         partly prefilled,
    (S4) then to the queue, first come first served, nobody overtaking: its head is admitted while
         some budget is left, the replica holds fewer sequences than its limit, and KV memory for all
         p + g tokens of its prefill is free, the growth of (S1) counted as used. Admission takes
         that memory at once. After an eviction all p + g tokens are computed anew.
    (S5) A chunk is as long as the prefill still needs or the budget still allows, whichever is less.
    (S6) The step takes `StepTimes.step_seconds`; a decoding sequence's context is p + g. At its end
         every decoding sequence, and every one whose prefill is complete, emits a token; a sequence
         with n tokens out completes and frees its memory.

A sequence holds p + g tokens of KV memory from the end of its prefill, where g does not count the
token emitted last, as that one is not computed yet. So p + n - 1 tokens are the most it ever needs;
a request that needs more than its replica has is the caller's mistake.

Losses
    (L1) At an instant replicas may vanish, the last of their pools first: after steps have ended and
         the next have started, before requests arrive. The step they compute is lost. Their requests
         are routed anew by the weights of what is left, in the order of the trace, and start anew
         with no token out; they count as outstanding from then on.

Time to first token: from arrival to the end of the step that emits it, and what a request costs
its pool beside the steps, which delays all its tokens alike and keeps no replica busy. Time per output token: from
the first token to the last, over n - 1; a request of one token has none. After a loss the answer
that completes counts, and the time still runs from the arrival. Time between tokens: one gap for
each token after the first of an answer, those of a lost answer included.
"""

from planner.simulator.events import simulate
from planner.simulator.fleet import ReplicaPool, ServingFleet, SizeShares
from planner.simulator.intervals import Estimate
from planner.simulator.judgement import PoolOutcome, TargetOutcome, judge
from planner.simulator.losses import Loss, without_market, without_replica
from planner.simulator.result import ReplicaUse, SimulationResult
from planner.simulator.samples import LatencySamples
from planner.simulator.sampling import batches_of, replicate

__all__ = [
    "Estimate",
    "LatencySamples",
    "Loss",
    "PoolOutcome",
    "ReplicaPool",
    "ReplicaUse",
    "ServingFleet",
    "SimulationResult",
    "SizeShares",
    "TargetOutcome",
    "batches_of",
    "judge",
    "replicate",
    "simulate",
    "without_market",
    "without_replica",
]
