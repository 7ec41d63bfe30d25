"""What the endpoint asks of an engine, answered by a replica that only knows sizes and times."""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.emulated.batching import BatchedReplica, EmulatedSequence
from serving.emulated.hardware import EmulatedReplica
from serving.engine.counters import EngineCounters
from serving.engine.drafting_policy import DraftSize, FixedDrafting
from serving.engine.sequence import GenerationOutput, GenerationRequest
from serving.engine_client import EngineFacts
from serving.errors import (
    ContextLengthError,
    NotFoundError,
    OverloadedError,
    RequestError,
    UnsupportedError,
)

logger = logging.getLogger(__name__)

ANSWER_TOKENS = 256
"""Length at which an answer ends by itself, as a model's text does, unless `ignore_eos` is set."""

GUARANTEE = "none: the text is made up, the timing is modelled"


@dataclass(slots=True)
class EmulatedPages:
    """KV memory in the terms of `PagePool`, counted in single tokens; no prefix is shared."""

    replica: BatchedReplica
    query_tokens: int = 0
    hit_tokens: int = 0

    @property
    def num_pages(self) -> int:
        """Tokens there is room for."""
        return self.replica.kv_capacity_tokens

    @property
    def num_tokens(self) -> int:
        """Tokens there is room for."""
        return self.replica.kv_capacity_tokens

    @property
    def num_in_use(self) -> int:
        """Tokens that running sequences hold."""
        return self.replica.kv_tokens


class EmulatedEngine:
    """Has the attributes of `Engine` that `/metrics` reads, over a `BatchedReplica`.

    Not safe in threads: the event loop owns it.
    """

    def __init__(self, emulated: EmulatedReplica, *, max_waiting: int, text: Sequence[int]) -> None:
        """Start idle.

        Args:
            emulated: What is emulated.
            max_waiting: Requests that may wait for room.
            text: Tokens that every answer repeats from the first on.
        """
        self._emulated = emulated
        self._replica = BatchedReplica(emulated.speed)
        self._max_waiting = max_waiting
        self._text = tuple(text)
        self._requests: dict[str, GenerationRequest] = {}
        self._adapters: set[str] = set()
        self.counters = EngineCounters()
        self.kv_pages = EmulatedPages(self._replica)
        self.guarantee = GUARANTEE
        self.drafting = FixedDrafting(DraftSize(0, 0))
        self.draft_size = DraftSize(0, 0)
        self.num_drafts_without_room = 0
        self.pre_drafts = None

    @property
    def facts(self) -> EngineFacts:
        """What is fixed about the emulated model, and what is emulated."""
        return EngineFacts(
            context_tokens=self.context_tokens,
            vocabulary_size=self.vocabulary_size,
            eos_ids=frozenset(),  # so no request can ask for a grammar, which made-up text breaks
            guarantee=GUARANTEE,
            name="emulated",
            details={"emulated": self._emulated.described()},
        )

    @property
    def context_tokens(self) -> int:
        """Longest sequence a request may reach."""
        return self._emulated.speed.longest_request_tokens

    @property
    def vocabulary_size(self) -> int:
        """Token ids a request may name: the model's and the tokenizer's."""
        return max(self._emulated.vocabulary_size, max(self._text) + 1)

    @property
    def num_running(self) -> int:
        """Sequences with memory."""
        return len(self._replica.running)

    @property
    def num_waiting(self) -> int:
        """Sequences without memory yet."""
        return len(self._replica.waiting)

    @property
    def num_preemptions(self) -> int:
        """Sequences that lost their memory to an older one, since start."""
        return self._replica.num_evictions

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._requests)

    @property
    def adapter_names(self) -> list[str]:
        """Loaded adapters, sorted."""
        return sorted(self._adapters)

    @property
    def adapters_in_use(self) -> tuple[list[str], list[str]]:
        """Adapters that running and that waiting requests name, sorted."""

        def named(sequences: Iterable[EmulatedSequence]) -> list[str]:
            requests = (self._requests.get(sequence.request_id) for sequence in sequences)
            names = {request.adapter_name for request in requests if request is not None}
            return sorted(filter(None, names))

        return named(self._replica.running), named(self._replica.waiting)

    def load_adapter(self, name: str, folder: Path) -> None:
        """Answer under `name` too; the folder has been checked.

        Raises:
            RequestError: If the name is taken.
        """
        if name in self._adapters:
            raise RequestError(
                f"adapter {name!r} is already loaded; unload it first or choose another name",
                param="lora_name",
            )
        self.replace_adapter(name, folder)

    def replace_adapter(self, name: str, folder: Path) -> None:
        """Answer under `name`, which another folder may have had; this one has been checked."""
        self._adapters.add(name)
        logger.info("adapter loaded name=%s folder=%s", name, folder)

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter.

        Raises:
            NotFoundError: If there is none of that name.
        """
        self._check_adapter(name, "lora_name")
        self._adapters.remove(name)
        logger.info("adapter unloaded name=%s", name)

    def add(self, request: GenerationRequest) -> None:
        """Queue a request.

        Raises:
            ContextLengthError: If it can never fit the context or the KV memory.
            NotFoundError: If its adapter is not loaded.
            OverloadedError: If the queue is full.
            UnsupportedError: If it asks for what made-up text cannot have.
        """
        if request.grammar is not None or request.params.num_logprobs is not None:
            raise UnsupportedError(
                "an emulated engine makes its text up: it has no logprobs and follows no grammar; "
                "leave them out"
            )
        if request.adapter_name is not None:
            self._check_adapter(request.adapter_name, "model")
        total = len(request.prompt) + request.params.max_tokens
        if total > self.context_tokens:
            raise ContextLengthError(
                f"the prompt has {len(request.prompt)} tokens and max_tokens is "
                f"{request.params.max_tokens}, together above the context of "
                f"{self.context_tokens}; shorten one of them",
                param="max_tokens",
            )
        # Who arrives between two steps stands in the queue though there is room for it.
        num_admissible = self._emulated.speed.max_sequences - self.num_running
        if self.num_waiting >= self._max_waiting + num_admissible:
            raise OverloadedError(f"{self.num_waiting} requests are waiting already; retry later")
        answer_tokens = request.params.max_tokens
        if not request.params.ignore_eos:
            answer_tokens = min(answer_tokens, ANSWER_TOKENS)
        self._requests[request.request_id] = request
        self._replica.add(EmulatedSequence(request.request_id, len(request.prompt), answer_tokens))
        self.counters.prompt_tokens += len(request.prompt)

    def abort(self, request_id: str) -> None:
        """Drop a request and free its memory; unknown ids are ignored, it may have finished."""
        self._replica.remove(request_id)
        self._requests.pop(request_id, None)

    def start_step(self) -> float:
        """Compose the next step; return its seconds, 0 where there is no work."""
        return self._replica.start_step()

    def end_step(self) -> list[GenerationOutput]:
        """Return the tokens that the present step emits."""
        return [self._output(sequence) for sequence in self._replica.end_step()]

    def _output(self, sequence: EmulatedSequence) -> GenerationOutput:
        self.counters.generation_tokens += 1
        token = self._text[(sequence.num_emitted - 1) % len(self._text)]
        finish_reason = None
        if sequence.is_finished:
            request = self._requests.pop(sequence.request_id)
            is_cut = sequence.num_emitted == request.params.max_tokens
            finish_reason = "length" if is_cut else "stop"
        return GenerationOutput(sequence.request_id, (token,), finish_reason)

    def _check_adapter(self, name: str, param: str) -> None:
        if name not in self._adapters:
            raise NotFoundError(
                f"no adapter {name!r} is loaded; loaded: {self.adapter_names}", param=param
            )
