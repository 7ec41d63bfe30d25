"""Our engine as a contestant: each mode is a configuration of `motley serve`."""

import itertools
from typing import Any

import torch
from benchmarks.speculation_worker import Call, Generate, Texts, serve

from serving.config import ServeConfig
from serving.engine.engine import Engine
from serving.engine.sampling import SamplingParams
from serving.engine.sequence import GenerationRequest
from serving.server import build_engine

KV_BYTES = 1 << 28


def start(options: dict[str, Any]) -> Generate:
    """Build the engine of each mode at its first use.

    Args:
        options: `threads`, `streams`, `model`, and `modes`: fields of `ServeConfig` by mode.
    """
    torch.set_num_threads(options["threads"])
    engines: dict[str, Engine] = {}
    numbers = itertools.count()

    def build(mode: str) -> Engine:
        config = ServeConfig(
            model=options["model"],
            served_model_name="benchmark",
            threads=options["threads"],
            kv_bytes=KV_BYTES,
            max_sequences=options["streams"],
            **options["modes"][mode],
        )
        return build_engine(config)[0]

    def generate(call: Call) -> Texts:
        engine = engines.get(call.mode) or engines.setdefault(call.mode, build(call.mode))
        counters = engine.counters
        before = counters.drafts, counters.draft_tokens, [*counters.accepted_per_position]
        draft_seconds = counters.draft_seconds
        params = SamplingParams(
            temperature=call.temperature, max_tokens=call.new_tokens, ignore_eos=True
        )
        texts: dict[str, list[int]] = {}
        for prompt, seed in zip(call.prompts, call.seeds, strict=True):
            name = str(next(numbers))
            texts[name] = []
            engine.add(GenerationRequest(name, tuple(prompt), params, seed=seed))
        while engine.has_work:
            for output in engine.step():
                texts[output.request_id] += output.tokens
        accepted = counters.accepted_per_position
        earlier = itertools.chain(before[2], itertools.repeat(0))
        return Texts(
            [*texts.values()],
            counters.drafts - before[0],
            counters.draft_tokens - before[1],
            tuple(now - then for now, then in zip(accepted, earlier, strict=False)),
            counters.draft_seconds - draft_seconds,
        )

    return generate


if __name__ == "__main__":
    serve(start)
