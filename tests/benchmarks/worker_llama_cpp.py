"""llama.cpp as a contestant, through llama-cpp-python's low-level calls, in its own environment.

All sequences share one batch a decode. Drafts are greedy chains of a second model, or what
llama-cpp-python's prompt lookup proposes; the target verifies them in one decode.
"""

import ctypes
from collections.abc import Callable
from typing import Any, NamedTuple

import llama_cpp
import numpy as np
from benchmarks.speculation_worker import Call, Generate, Texts, serve
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

BATCH_ROWS = 512


class Row(NamedTuple):
    """A token at its place of a sequence."""

    token: int
    place: int
    sequence: int
    wants_logits: bool


class Model:
    """A model and its keys and values, by sequence."""

    def __init__(self, path: str, *, threads: int, streams: int, context_tokens: int) -> None:
        """Load `path` on the processor; every sequence has room for `context_tokens`."""
        model_params = llama_cpp.llama_model_default_params()
        model_params.n_gpu_layers = 0
        model_params.use_mmap = False  # what is read anyhow counts once
        self._model = llama_cpp.llama_model_load_from_file(path.encode(), model_params)
        if not self._model:
            raise ValueError(f"{path}: llama.cpp cannot load it")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = context_tokens * streams
        params.n_batch = params.n_ubatch = BATCH_ROWS
        params.n_seq_max = streams
        params.n_threads = params.n_threads_batch = threads
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = llama_cpp.llama_batch_init(BATCH_ROWS, 0, 1)
        vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self._width = llama_cpp.llama_vocab_n_tokens(vocabulary)

    def clear(self) -> None:
        """Forget every sequence."""
        llama_cpp.llama_memory_clear(self._memory, True)

    def cut(self, sequence: int, length: int) -> None:
        """Forget a sequence's rows from `length` on."""
        llama_cpp.llama_memory_seq_rm(self._memory, sequence, length, -1)

    def likeliest(self, rows: list[Row]) -> list[int]:
        """Decode; return the likeliest next token of each row that wants logits."""
        starts = range(0, len(rows), BATCH_ROWS)
        parts = (self._decode(rows[start : start + BATCH_ROWS]) for start in starts)
        return [token for part in parts for token in part]

    def _decode(self, rows: list[Row]) -> list[int]:
        batch = self._batch
        batch.n_tokens = len(rows)
        for index, row in enumerate(rows):
            batch.token[index] = row.token
            batch.pos[index] = row.place
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = row.sequence
            batch.logits[index] = row.wants_logits
        if code := llama_cpp.llama_decode(self._context, batch):
            raise RuntimeError(f"llama_decode returned {code} for {len(rows)} rows")
        return [self._argmax(index) for index, row in enumerate(rows) if row.wants_logits]

    def _argmax(self, index: int) -> int:
        logits = llama_cpp.llama_get_logits_ith(self._context, index)
        shape = (self._width,)
        return int(np.ctypeslib.as_array(ctypes.cast(logits, _FLOATS), shape).argmax())


_FLOATS = ctypes.POINTER(ctypes.c_float)


class Stream:
    """One sequence: its tokens, and how many of them each model has seen."""

    def __init__(self, number: int, prompt: list[int], new_tokens: int) -> None:
        self.number = number
        self.tokens = list(prompt)
        self.drafted: list[int] = []
        self.num_verified = 0
        self.num_seen_by_draft = 0
        self._most = len(prompt) + new_tokens

    @property
    def num_remaining(self) -> int:
        """Tokens still to generate."""
        return self._most - len(self.tokens)

    def rows(self, start: int, *, from_place: int) -> list[Row]:
        """Return known and drafted tokens from `start` on; logits from `from_place` on."""
        text = self.tokens + self.drafted
        return [
            Row(text[place], place, self.number, place >= from_place)
            for place in range(start, len(text))
        ]


Draft = Callable[[list[Stream]], None]


def draft_with(model: Model, num_tokens: int) -> Draft:
    """Return greedy drafting with a model, one decode a depth for all streams."""

    def draft(streams: list[Stream]) -> None:
        for depth in range(num_tokens):
            growing = [s for s in streams if s.num_remaining > depth + 1]
            if not growing:
                return
            rows = []
            for stream in growing:
                last = len(stream.tokens) + len(stream.drafted) - 1
                rows += stream.rows(stream.num_seen_by_draft, from_place=last)
                stream.num_seen_by_draft = last + 1
            for stream, token in zip(growing, model.likeliest(rows), strict=True):
                stream.drafted.append(token)

    return draft


def look_up(num_tokens: int) -> Draft:
    """Return llama-cpp-python's prompt lookup."""
    lookup = LlamaPromptLookupDecoding(num_pred_tokens=num_tokens)

    def draft(streams: list[Stream]) -> None:
        for stream in streams:
            found = lookup(np.array(stream.tokens, dtype=np.intc))
            stream.drafted = [int(token) for token in found[: max(stream.num_remaining - 1, 0)]]

    return draft


def start(options: dict[str, Any]) -> Generate:
    """Load the target, and the draft where a mode wants it.

    Args:
        options: `threads`, `streams`, `context_tokens`, `model`, `draft` (paths), and `modes`:
            drafted tokens by mode; a mode is `none`, `lookup` or `chain`.
    """
    shared = {name: options[name] for name in ("threads", "streams", "context_tokens")}
    target = Model(options["model"], **shared)
    models = [target]
    drafts: dict[str, Draft] = {"none": lambda _: None}
    for mode, num_tokens in options["modes"].items():
        if mode == "lookup":
            drafts[mode] = look_up(num_tokens)
        if mode == "chain":
            models.append(Model(options["draft"], **shared))
            drafts[mode] = draft_with(models[-1], num_tokens)

    def generate(call: Call) -> Texts:
        if call.temperature > 0:
            raise ValueError("this contestant decodes greedily only")
        for model in models:
            model.clear()
        streams = [Stream(i, p, call.new_tokens) for i, p in enumerate(call.prompts)]
        for stream in streams:
            last = len(stream.tokens) - 1
            stream.tokens += target.likeliest(stream.rows(0, from_place=last))
            stream.num_verified = last + 1
        rounds = _Rounds()
        while running := [stream for stream in streams if stream.num_remaining]:
            drafts[call.mode](running)
            _verify(target, running, models[1:], rounds)
        done = [stream.tokens[len(p) :] for stream, p in zip(streams, call.prompts, strict=True)]
        return Texts(done, rounds.drafts, rounds.drafted, tuple(rounds.accepted))

    return generate


class _Rounds:
    """Totals over rounds of drafting."""

    def __init__(self) -> None:
        self.drafts = self.drafted = 0
        self.accepted: list[int] = []

    def count(self, num_drafted: int, num_accepted: int) -> None:
        self.drafts += num_drafted > 0
        self.drafted += num_drafted
        self.accepted += [0] * (num_accepted - len(self.accepted))
        for position in range(num_accepted):
            self.accepted[position] += 1


def _verify(
    target: Model, streams: list[Stream], draft_models: list[Model], rounds: _Rounds
) -> None:
    """Decode all streams' drafts at once; keep what the target would have chosen, and one more."""
    rows = [s.rows(s.num_verified, from_place=len(s.tokens) - 1) for s in streams]
    likeliest = iter(target.likeliest([row for part in rows for row in part]))
    for stream in streams:
        chosen = [next(likeliest) for _ in range(len(stream.drafted) + 1)]
        kept = 0
        while kept < len(stream.drafted) and stream.drafted[kept] == chosen[kept]:
            kept += 1
        rounds.count(len(stream.drafted), kept)
        stream.num_verified = len(stream.tokens) + kept
        if kept < len(stream.drafted):
            target.cut(stream.number, stream.num_verified)
        stream.tokens += chosen[: kept + 1]
        stream.drafted = []
        seen = min(stream.num_seen_by_draft, stream.num_verified)
        if seen < stream.num_seen_by_draft:
            for model in draft_models:
                model.cut(stream.number, seen)
            stream.num_seen_by_draft = seen


if __name__ == "__main__":
    serve(start)
