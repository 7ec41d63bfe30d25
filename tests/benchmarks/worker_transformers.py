"""transformers' `generate` as a contestant, alone and with an assistant model."""

from typing import Any

import torch
from benchmarks.speculation_worker import Call, Generate, Texts, serve
from transformers import AutoModelForCausalLM


def start(options: dict[str, Any]) -> Generate:
    """Load the pair in float32.

    Args:
        options: `threads`, `model`, `draft`, and `modes`: the assistant's generation settings by
            mode, null for none.
    """
    torch.set_num_threads(options["threads"])
    target, draft = (_load(options[role]) for role in ("model", "draft"))

    def generate(call: Call) -> Texts:
        settings = options["modes"][call.mode]
        for name, value in (settings or {}).items():
            setattr(draft.generation_config, name, value)
        sampling: dict[str, Any] = {"do_sample": False}
        if call.temperature > 0:
            sampling = {"do_sample": True, "temperature": call.temperature, "top_k": 0}
        texts = []
        for prompt, seed in zip(call.prompts, call.seeds, strict=True):
            torch.manual_seed(seed)
            ids = torch.tensor([prompt])
            out = target.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                assistant_model=None if settings is None else draft,
                max_new_tokens=call.new_tokens,
                pad_token_id=0,
                **sampling,
            )
            texts.append(out[0, len(prompt) :].tolist())
        return Texts(texts)

    return generate


def _load(folder: str) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.generation_config.eos_token_id = None  # every text has all its tokens
    return model.requires_grad_(False)


if __name__ == "__main__":
    serve(start)
