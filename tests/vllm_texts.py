"""What vLLM makes of adapters, run in its own environment: `python vllm_texts.py JOB ANSWERS`.

Standard library and vLLM only. JOB and ANSWERS are JSON files: prompts as token ids and adapters'
folders in; for each adapter the greedy tokens and the prompts' log-probabilities out.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any


def texts(job: dict[str, Any]) -> dict[str, Any]:
    """Return, by adapter, each prompt's greedy tokens and the log-probability of its own."""
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = str(max(os.sched_getaffinity(0)))
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    model = LLM(
        model=job["model"],
        dtype="float32",
        max_model_len=256,
        # With LoRA on a processor, vLLM 0.32 gives prompt log-probabilities to one sequence at a time.
        max_num_seqs=1,
        enforce_eager=True,
        enable_lora=True,
        max_loras=1,
        max_lora_rank=job["most_rank"],
    )
    params = SamplingParams(
        temperature=0, max_tokens=job["new_tokens"], ignore_eos=True, prompt_logprobs=0
    )
    prompts = [{"prompt_token_ids": prompt} for prompt in job["prompts"]]
    answers = {}
    for number, (name, folder) in enumerate(job["adapters"].items(), start=1):
        request = None if folder is None else LoRARequest(name, number, folder)
        outputs = model.generate(prompts, params, lora_request=request, use_tqdm=False)
        answers[name] = [
            {
                "tokens": list(output.outputs[0].token_ids),
                # The first token has none: nothing stands before it.
                "logprobs": [
                    row[token].logprob
                    for token, row in zip(prompt[1:], output.prompt_logprobs[1:], strict=True)
                ],
            }
            for prompt, output in zip(job["prompts"], outputs, strict=True)
        ]
    return answers


if __name__ == "__main__":
    Path(sys.argv[2]).write_text(json.dumps(texts(json.loads(Path(sys.argv[1]).read_text()))))
