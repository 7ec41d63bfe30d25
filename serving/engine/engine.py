"""The engine: one step drafts for every decoding sequence and verifies all of them at once."""

import logging
import time
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from serving.engine.adapter_table import AdapterTable
from serving.engine.choosing import choose
from serving.engine.counters import EngineCounters, PreDraftCounts
from serving.engine.draft_tree import DraftTree
from serving.engine.drafter import Drafter
from serving.engine.drafting_policy import DraftingPolicy, DraftSize, FixedDrafting
from serving.engine.kv_cache import KVPool, SequenceCache
from serving.engine.model import TargetModel
from serving.engine.pages import PAGE_TOKENS, PagePool
from serving.engine.pre_drafting import PreDrafter
from serving.engine.reading import Reading, ReadRequest, read_tokens
from serving.engine.rows import Rows
from serving.engine.sampling import raw_logprobs
from serving.engine.scheduler import Scheduled, Scheduler
from serving.engine.sequence import GenerationOutput, GenerationRequest, Sequence
from serving.errors import (
    ContextLengthError,
    EngineError,
    ModelError,
    OverloadedError,
    RequestError,
    ServingError,
)

logger = logging.getLogger(__name__)


UNTESTED_GUARANTEE = "up to floating-point order"
"""What holds where no start-up test has shown more."""


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What the engine takes on."""

    kv_bytes: int
    """Memory for the target's keys and values, in bytes."""
    max_sequences: int
    """Sequences that run at once."""
    max_waiting: int
    """Sequences that wait for room."""
    max_prefill_rows: int = 512
    """Prompt tokens of one step."""


class Engine:
    """Continuous batching over a target, with drafts of whichever drafter it is given.

    Not thread-safe: one thread owns it.
    """

    def __init__(
        self,
        target: TargetModel,
        drafter: Drafter | None,
        *,
        num_draft_tokens: int,
        limits: EngineLimits,
        eos_ids: frozenset[int],
        guarantee: str = UNTESTED_GUARANTEE,
        drafting: DraftingPolicy | None = None,
    ) -> None:
        """Put the parts together.

        Args:
            target: The model that is served.
            drafter: Guesses ahead; None decodes one token a step.
            num_draft_tokens: Guesses of one round and sequence, nodes of its tree.
            limits: Memory and queue limits.
            eos_ids: Tokens that end a text.
            guarantee: How exactly greedy output is the target's own, as the start-up test found.
            drafting: Says how much each round drafts, up to `num_draft_tokens`; None always that.

        Raises:
            ModelError: If the KV memory holds next to nothing.
        """
        self._target = target
        self._drafter = drafter
        num_drafts = num_draft_tokens if drafter else 0
        self.drafting = drafting or FixedDrafting(DraftSize(num_drafts, num_drafts))
        self.draft_size = DraftSize(0, 0)
        """What the last step drafted at most, as `drafting` said."""
        self._eos_ids = eos_ids
        self.guarantee = guarantee
        self._limits = limits
        page_bytes = PAGE_TOKENS * target.kv_bytes_per_token
        num_pages = limits.kv_bytes // page_bytes
        if num_pages < 1:
            raise ModelError(
                f"KV memory of {limits.kv_bytes} bytes holds no page of this model ({PAGE_TOKENS} "
                f"tokens); give at least {page_bytes}"
            )
        self._pool = KVPool(num_pages)
        self._draft_pool = KVPool(num_pages if drafter else 0)
        self._scheduler = Scheduler(
            self._pool.pages,
            max_sequences=limits.max_sequences,
            max_prefill_rows=limits.max_prefill_rows,
        )
        self._adapters = AdapterTable(lambda folder: target.read_adapter(folder))
        self.counters = EngineCounters()

    @property
    def context_tokens(self) -> int:
        """Longest sequence a request may reach."""
        longest = min(self._target.context_tokens, self.kv_pages.num_tokens)
        drafted = self._drafter.context_tokens if self._drafter else None
        return longest if drafted is None else min(longest, drafted)

    @property
    def vocabulary_size(self) -> int:
        """Token ids the target knows."""
        return self._target.vocabulary_size

    @property
    def eos_ids(self) -> frozenset[int]:
        """Tokens that end a text."""
        return self._eos_ids

    @property
    def num_running(self) -> int:
        """Sequences with memory."""
        return len(self._scheduler.running)

    @property
    def num_decoding(self) -> int:
        """Running sequences whose prompt is computed."""
        return self._scheduler.load.num_decoding

    @property
    def num_waiting(self) -> int:
        """Sequences without memory yet."""
        return len(self._scheduler.waiting)

    @property
    def adapters_in_use(self) -> tuple[list[str], list[str]]:
        """Adapters that running and that waiting requests name, sorted."""
        return self._scheduler.adapter_names

    @property
    def num_preemptions(self) -> int:
        """Sequences that lost their memory to an older one, since start."""
        return self._scheduler.num_preemptions

    @property
    def num_drafts_without_room(self) -> int:
        """Drafts not made because the draft's memory was full, since start."""
        return self._drafter.num_without_room if self._drafter else 0

    @property
    def pre_drafts(self) -> PreDraftCounts | None:
        """What was drafted while the target verified; None where nothing is drafted ahead."""
        return self._drafter.counts if isinstance(self._drafter, PreDrafter) else None

    @property
    def kv_pages(self) -> PagePool:
        """The target's pages, for reading counts."""
        return self._pool.pages

    def close(self) -> None:
        """End the thread that drafts ahead, where there is one; no step follows."""
        if isinstance(self._drafter, PreDrafter):
            self._drafter.close()

    def check_idle(self) -> None:
        """Check that an engine without work holds no page.

        Raises:
            AssertionError: If a page is held or lost.
        """
        self._pool.pages.check_idle()
        self._draft_pool.pages.check_idle()

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._scheduler.running or self._scheduler.waiting)

    @property
    def adapter_names(self) -> list[str]:
        """Loaded adapters, sorted."""
        return self._adapters.names

    def load_adapter(self, name: str, folder: Path) -> None:
        """Load a LoRA folder under a free name: `AdapterTable.load`."""
        self._adapters.load(name, folder)

    def replace_adapter(self, name: str, folder: Path) -> None:
        """Load a LoRA folder in place of what has that name: `AdapterTable.replace`."""
        self._adapters.replace(name, folder)

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter; requests that run with it finish with it: `AdapterTable.unload`."""
        self._adapters.unload(name)

    def add(self, request: GenerationRequest) -> None:
        """Queue a request.

        Raises:
            ContextLengthError: If it can never fit the context or the KV memory.
            NotFoundError: If its adapter is not loaded.
            OverloadedError: If the queue is full.
            RequestError: If it names token ids that the model does not have.
        """
        self._check_length(request)
        try:
            request.params.check_ids(self.vocabulary_size)
        except ValueError as error:
            raise RequestError(str(error)) from None
        adapter_id, adapter = self._adapters.find(request.adapter_name)
        num_admissible = max(0, self._limits.max_sequences - self.num_running)
        if self.num_waiting >= self._limits.max_waiting + num_admissible:
            raise OverloadedError(f"{self.num_waiting} requests are waiting already; retry later")
        caches = SequenceCache(self._pool, adapter_id), SequenceCache(self._draft_pool)
        end_ids = frozenset(request.params.stop_token_ids)
        if not request.params.ignore_eos:
            end_ids |= self._eos_ids
        self._scheduler.add(Sequence(request, adapter, *caches, end_ids))
        self.counters.prompt_tokens += len(request.prompt)

    def abort(self, request_id: str) -> None:
        """Drop a request and free its memory; unknown ids are ignored, it may have finished."""
        self._scheduler.remove(request_id)

    def read(self, request: ReadRequest) -> Reading:
        """Run the target over a whole text, between two steps: `reading.read_tokens`."""
        adapter_id, adapter = self._adapters.find(request.adapter_name)
        cache = SequenceCache(self._pool, adapter_id)
        return read_tokens(self._target, cache, request, adapter, most_tokens=self.context_tokens)

    def step(self) -> list[GenerationOutput]:
        """Draft, verify, accept: advance every scheduled sequence and return what is new."""
        load = self._scheduler.load
        self.draft_size = self.drafting.size(load)
        step = self._scheduler.schedule(self.draft_size)
        trees = self._draft(step)
        verified = self._verify(step, trees)
        outputs = [
            self._accept(part, tree, *rows)
            for part, tree, rows in zip(step, trees, verified, strict=True)
        ]
        if load.num_decoding:
            self.drafting.end_step()
        return [output for output in outputs if output is not None]

    def _check_length(self, request: GenerationRequest) -> None:
        total = len(request.prompt) + request.params.max_tokens
        if total > self.context_tokens:
            raise ContextLengthError(
                f"the prompt has {len(request.prompt)} tokens and max_tokens is "
                f"{request.params.max_tokens}, together above the context of "
                f"{self.context_tokens} (KV memory holds {self.kv_pages.num_tokens}); shorten one of them",
                param="max_tokens",
            )

    def _draft(self, step: list[Scheduled]) -> list[DraftTree]:
        """Return what is guessed for each sequence, empty trees where there is no drafter."""
        if self._drafter is None:
            return [DraftTree() for _ in step]
        start = time.perf_counter()
        trees = self._drafter.propose(step)
        self.counters.draft_seconds += time.perf_counter() - start
        return trees

    def _verify(
        self, step: list[Scheduled], trees: list[DraftTree]
    ) -> list[tuple[Tensor, Tensor | None]]:
        """Run the target once over all rows; return each sequence's last logits, and features."""
        if not step:
            return []
        batch = [self._rows(part, tree) for part, tree in zip(step, trees, strict=True)]
        features: Items[Tensor | None] = [None] * len(batch)
        if self._drafter and self._drafter.reads_features:
            logits_NV, features_TE = self._target.forward_with_features(batch)
            features = torch.split(features_TE, [len(rows.tokens) for rows in batch])
        else:
            logits_NV = self._target.forward(batch)
        logits = torch.split(logits_NV, [rows.num_logits for rows in batch])
        return list(zip(logits, features, strict=True))

    @staticmethod
    def _rows(part: Scheduled, tree: DraftTree) -> Rows:
        """Put a tree behind the known tokens, the last of which is its root's place."""
        sequence, count = part.sequence, part.num_rows
        start = sequence.target_cache.length
        known = sequence.tokens[start : start + count]
        parents = None
        if tree.tokens:
            parents = [*range(-1, count - 1), *(count + parent for parent in tree.parents)]
        return Rows(
            [*known, *tree.tokens],
            sequence.target_cache,
            len(tree) + 1,
            sequence.adapter,
            parents,
        )

    def _accept(
        self, part: Scheduled, tree: DraftTree, logits_NV: Tensor, features_NE: Tensor | None
    ) -> GenerationOutput | None:
        """Commit what stays, forget the rest, and return the emitted tokens."""
        sequence, known = part.sequence, range(part.num_rows)
        if not part.completes_prompt:
            self._commit(sequence, known, features_NE)
            return None
        verdict = choose(sequence, tree, logits_NV)
        if verdict is None:
            return self._fail(sequence)
        output = self._emit(sequence, [*(tree.tokens[i] for i in verdict.nodes), verdict.token])
        num_top = sequence.request.params.num_logprobs
        if num_top is not None:
            rows_NV = logits_NV[verdict.rows[: len(output.tokens)]]
            logprobs = raw_logprobs(rows_NV, output.tokens, num_top=num_top)
            output = replace(output, logprobs=tuple(logprobs))
        # What stands behind an end of text was accepted and never emitted.
        kept = verdict.nodes[: len(output.tokens)]
        self._commit(sequence, [*known, *(part.num_rows + node for node in kept)], features_NE)
        if tree.tokens:
            self.counters.count_draft(len(tree), len(kept))
            self.drafting.observe(tree, verdict.nodes)
        if output.finish_reason:
            self._scheduler.remove(sequence.request.request_id)
        return output

    def _commit(self, sequence: Sequence, rows: Items[int], features_NE: Tensor | None) -> None:
        """Make rows of the target final, and hand their features to the drafter."""
        sequence.target_cache.commit_path(rows)
        sequence.target_cache.publish(sequence.tokens)
        if self._drafter:
            kept_NE = None if features_NE is None else features_NE[list(rows)]
            self._drafter.settle(sequence, kept_NE)

    def _fail(self, sequence: Sequence) -> GenerationOutput:
        """End a request whose next token would be arbitrary, or not its grammar's."""
        request = sequence.request
        self._scheduler.remove(request.request_id)
        self.counters.failed_requests += 1
        grammar = sequence.grammar
        if grammar is not None and grammar.error:
            refused = f"the grammar cannot be followed: {grammar.error}; simplify it"
            error: ServingError = RequestError(refused, param="response_format")
        else:
            model = f"adapter {request.adapter_name!r}" if request.adapter_name else "the model"
            error = EngineError(
                f"{model} computed logits that are not finite for any token the request allows; "
                "check its weights, then the request's bans and grammar"
            )
        logger.error("request failed request_id=%s error=%s", request.request_id, error)
        return GenerationOutput(request.request_id, (), error=error)

    def _emit(self, sequence: Sequence, tokens: list[int]) -> GenerationOutput:
        """Add tokens to the text, up to its end or its limit."""
        emitted: list[int] = []
        finish_reason = None
        for token in tokens[: sequence.num_remaining]:
            emitted.append(token)
            if sequence.take(token):
                finish_reason = "stop"
                break
        if finish_reason is None and sequence.num_remaining == 0:
            finish_reason = "length"
        self.counters.generation_tokens += len(emitted)
        return GenerationOutput(sequence.request.request_id, tuple(emitted), finish_reason)
