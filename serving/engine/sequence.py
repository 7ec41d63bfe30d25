"""A request inside the engine: its tokens, its caches, how far it is."""

import time
from collections import abc
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from serving.engine.adapters import Adapter
from serving.engine.grammar import Grammar, TokenMask, allowed_prefix, path_masks
from serving.engine.kv_cache import SequenceCache
from serving.engine.ngram import NgramIndex
from serving.engine.processors import RowHistories, TokenHistory
from serving.engine.sampling import SamplingParams, TokenLogprobs, race_times
from serving.errors import ServingError


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What the endpoint asks of the engine."""

    request_id: str
    prompt: tuple[int, ...]
    params: SamplingParams
    seed: int
    adapter_name: str | None = None
    grammar: Grammar | None = None
    """What the text must follow; None allows all."""


@dataclass(frozen=True, slots=True)
class GenerationOutput:
    """New tokens of one request; `finish_reason` is set on its last output.

    `error` is set instead where the engine failed, or the request asked for what cannot be.
    """

    request_id: str
    tokens: tuple[int, ...]
    finish_reason: str | None = None
    error: ServingError | None = None
    logprobs: tuple[TokenLogprobs, ...] = ()
    """Of each token, where the request asks for them."""


class DraftState(Protocol):
    """What a drafter keeps of one sequence between rounds."""

    def release(self) -> None:
        """Free its memory."""


@dataclass(slots=True, eq=False)
class Sequence:
    """A request's state between steps."""

    request: GenerationRequest
    adapter: Adapter | None
    target_cache: SequenceCache
    draft_cache: SequenceCache
    end_ids: frozenset[int]
    """Tokens that end this text."""
    tokens: list[int] = field(init=False)
    history: TokenHistory | None = field(init=False, default=None)
    """Kept where the request's processors read it."""
    grammar: TokenMask | None = field(init=False, default=None)
    """Where the text stands in the request's grammar."""
    ngrams: NgramIndex = field(default_factory=NgramIndex)
    """Filled by the drafter that reads it."""
    draft_state: DraftState | None = None
    """Made and read by the drafter that keeps one."""
    ahead: DraftState | None = None
    """What was drafted behind this text's likeliest next tokens, while they are verified."""
    arrival_seconds: float = field(default_factory=time.monotonic)
    _races: dict[int, Tensor] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.tokens = list(self.request.prompt)
        if self.request.grammar is not None:
            self.grammar = self.request.grammar.start()
        if self.request.params.reads_history or self.grammar is not None:
            self.history = TokenHistory(self.tokens, end_ids=self.end_ids)

    @property
    def num_generated(self) -> int:
        """Tokens generated so far."""
        return len(self.tokens) - len(self.request.prompt)

    @property
    def num_remaining(self) -> int:
        """Tokens still to generate at most."""
        return self.request.params.max_tokens - self.num_generated

    @property
    def num_uncached(self) -> int:
        """Tokens the target has not seen; 1 while decoding, more while prefilling."""
        return len(self.tokens) - self.target_cache.length

    def take(self, token: int) -> bool:
        """Take in a generated token; whether it ends the text."""
        self.tokens.append(token)
        if self.history is not None:
            self.history.extend((token,))
        if self.grammar is None:
            return token in self.end_ids
        is_taken = self.grammar.advance(token)
        assert is_taken or self.grammar.error, "a masked row gives no other token"
        return token in self.end_ids or self.grammar.is_finished

    def histories(self, paths: abc.Sequence[abc.Sequence[int]]) -> RowHistories | None:
        """Return what stands before rows behind drafted `paths`; None where nothing reads it."""
        if self.history is None:
            return None
        allowed_NV = None if self.grammar is None else path_masks(self.grammar, paths)
        return RowHistories(self.history, paths, allowed_NV)

    def allowed_prefix(self, path: abc.Sequence[int]) -> abc.Sequence[int]:
        """Return drafted tokens up to the first that the request's grammar forbids."""
        return path if self.grammar is None else allowed_prefix(self.grammar, path)

    def imagined(self, path: abc.Sequence[int]) -> "Sequence":
        """Return this text as if `path` followed, for a drafter alone; its caches are empty.

        Only of texts whose tokens have no history: it would be another one.
        """
        assert self.history is None, "processors would read the path"
        target_cache = SequenceCache(self.target_cache.pool)
        draft_cache = SequenceCache(self.draft_cache.pool)
        imagined = Sequence(self.request, self.adapter, target_cache, draft_cache, self.end_ids)
        imagined.tokens = [*self.tokens, *path]
        imagined._races = dict(self._races)
        return imagined

    def take_races(self, imagined: "Sequence") -> None:
        """Keep the race times that drafting behind an imagined text made."""
        self._races |= imagined._races

    def release(self) -> None:
        """Free the memory on both devices."""
        if self.ahead is not None:
            self.ahead.release()
            self.ahead = None
        self.target_cache.release()
        self.draft_cache.release()
        if self.draft_state is not None:
            self.draft_state.release()
            self.draft_state = None

    def races(self, depths: abc.Iterable[int], vocabulary_size: int) -> list[Tensor]:
        """Return the race times of the tokens so many places behind the next one. Shape of each: (V,).

        Draft and target run the same races, so each is made once; empty for a greedy request.
        """
        if self.request.params.is_greedy:
            return []
        place = len(self.tokens)
        for old in [position for position in self._races if position < place]:
            del self._races[old]
        times = []
        for depth in depths:
            known = self._races.get(place + depth)
            if known is None or len(known) != vocabulary_size:
                known = race_times(self.request.seed, place + depth, vocabulary_size)
                self._races[place + depth] = known
            times.append(known)
        return times
