"""Drafts that replay a known text, wrong as often as they are told: acceptance is set, not earned.

They cost nothing, so a text's seconds show what verification alone allows at that acceptance.
"""

import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from serving.engine.draft_tree import DraftTree
from serving.engine.drafter import Drafter
from serving.engine.engine import Engine, EngineLimits
from serving.engine.model import FlatModel
from serving.engine.sampling import SamplingParams
from serving.engine.scheduler import Scheduled
from serving.engine.sequence import GenerationRequest
from serving.engine.sequence import Sequence as EngineSequence

SETTINGS = ((3, 0.6), (3, 0.8), (7, 0.8), (15, 0.9))
"""Drafted tokens of a round, and the acceptance of each position if those before it were."""
PROMPT = tuple(range(3, 11))
KV_BYTES = 1 << 28


class ReplayDrafter:
    """Proposes the known continuation of every request, spoilt at random places."""

    context_tokens = None
    num_without_room = 0
    reads_features = False

    def __init__(self, texts: Mapping[str, Sequence[int]], *, acceptance: float, seed: int) -> None:
        """Replay.

        Args:
            texts: Generated tokens by request id.
            acceptance: How often a drafted token is the text's.
            seed: Of the places that are spoilt.
        """
        self._texts = texts
        self._acceptance = acceptance
        self._random = random.Random(seed)

    def propose(self, step: list[Scheduled]) -> list[DraftTree]:
        """Return one chain for each sequence."""
        return [self._chain(part) for part in step]

    def settle(self, sequence: EngineSequence, features_NE: Tensor | None) -> None:
        """Do nothing: the text is known."""

    def _chain(self, part: Scheduled) -> DraftTree:
        sequence = part.sequence
        count = min(part.num_drafts, part.most_depth)
        text = self._texts[sequence.request.request_id]
        known = text[sequence.num_generated : sequence.num_generated + max(count, 0)]
        # Any other token will do where one is spoilt; the neighbour exists in every vocabulary.
        return DraftTree.chain(
            [t if self._random.random() < self._acceptance else t ^ 1 for t in known]
        )


@dataclass(frozen=True, slots=True)
class _Run:
    seconds: float
    tokens: list[int]
    tokens_per_round: float


def replay_rows(model: FlatModel, *, new_tokens: int, repetitions: int) -> list[dict[str, Any]]:
    """Return the speed-up of each setting over plain decoding, runs of all in turn.

    Raises:
        AssertionError: If a drafted text differs from the plain one.
    """
    plain = _generate(model, None, 1, new_tokens)
    texts = {"0": plain.tokens}
    ratios: dict[tuple[int, float], list[float]] = {setting: [] for setting in SETTINGS}
    lengths: dict[tuple[int, float], list[float]] = {setting: [] for setting in SETTINGS}
    for repetition in range(repetitions):
        plain = _generate(model, None, 1, new_tokens)
        for setting in SETTINGS:
            num_tokens, acceptance = setting
            drafter = ReplayDrafter(texts, acceptance=acceptance, seed=repetition)
            run = _generate(model, drafter, num_tokens, new_tokens)
            assert run.tokens == plain.tokens, "verification changes no greedy text"
            ratios[setting].append(plain.seconds / run.seconds)
            lengths[setting].append(run.tokens_per_round)
    return [
        {
            "draft_tokens": num_tokens,
            "set_acceptance": acceptance,
            "tokens_per_round": statistics.mean(lengths[num_tokens, acceptance]),
            "speed_up": statistics.median(ratios[num_tokens, acceptance]),
        }
        for num_tokens, acceptance in SETTINGS
    ]


def _generate(model: FlatModel, drafter: Drafter | None, num_drafts: int, new_tokens: int) -> _Run:
    limits = EngineLimits(kv_bytes=KV_BYTES, max_sequences=1, max_waiting=1)
    engine = Engine(model, drafter, num_draft_tokens=num_drafts, limits=limits, eos_ids=frozenset())
    params = SamplingParams(temperature=0, max_tokens=new_tokens)
    engine.add(GenerationRequest("0", PROMPT, params, seed=0))
    tokens: list[int] = []
    start = time.perf_counter()
    while engine.has_work:
        for output in engine.step():
            tokens += output.tokens
    seconds = time.perf_counter() - start
    return _Run(seconds, tokens, engine.counters.acceptance_length)
