"""LoRA folders of random weights, as PEFT writes them."""

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM


def make_adapter(base: Path, folder: Path, *, seed: int = 0, **fields) -> Path:
    """Write a PEFT adapter with random A and B."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"]}
    peft_model = get_peft_model(model, LoraConfig(**(settings | fields)))
    for name, parameter in peft_model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    peft_model.save_pretrained(folder)
    return folder
