"""A job's folder in plain PEFT on the stock base: the logits of weights merged by hand, to 1e-6."""

import json
import re

import numpy as np
import peft
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM
from watched_job import Watcher

import motley
from finetune.aggregation import STRATEGIES
from finetune.base_model import load_base_model
from finetune.job import run_job
from finetune.lora import attach_adapter, write_tensors

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
IDS = torch.arange(40).reshape(2, 20)


def stock(folder):
    """Return the base model as anybody loads it."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def logits(model):
    """Return what a model says of the test's tokens."""
    with torch.inference_mode():
        return model.eval()(input_ids=IDS).logits


def in_peft(base_folder, adapter):
    """Return the logits of plain PEFT."""
    return logits(peft.PeftModel.from_pretrained(stock(base_folder), adapter))


def by_pattern(pattern, module, default):
    """Return what a pattern of PEFT's says of a module: a key that ends its name at a dot."""
    matches = [value for key, value in pattern.items() if re.search(rf"(^|\.){key}$", module)]
    return matches[0] if matches else default


def merged_by_hand(base_folder, adapter):
    """Return the logits of W + alpha / r * B A, summed in float64 from the two files alone."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    tensors = load_file(adapter / "adapter_model.safetensors")
    assert not config["use_rslora"]
    model, num_merged = stock(base_folder), 0
    with torch.no_grad():
        for name, module in model.named_modules():
            down = tensors.get(f"base_model.model.{name}.lora_A.weight")
            if down is None:
                continue
            up = tensors[f"base_model.model.{name}.lora_B.weight"]
            rank = by_pattern(config["rank_pattern"], name, config["r"])
            alpha = by_pattern(config["alpha_pattern"], name, config["lora_alpha"])
            assert up.shape[1] == len(down) == rank
            product = alpha / rank * up.astype(np.float64) @ down.astype(np.float64)
            module.weight.copy_(module.weight.double() + torch.from_numpy(product))
            num_merged += 1
    assert 2 * num_merged == len(tensors)
    return logits(model)


def assert_equal(given, wanted):
    """Compare float32 logits to 1e-6."""
    torch.testing.assert_close(given, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("aggregation", sorted(STRATEGIES))
def test_plain_peft_gives_the_aggregated_models_logits(make_job, tmp_path, toy_model, aggregation):
    """Of every aggregation: as weights merged by hand, and exactly as the trainer's own model."""
    job, folder = make_job(aggregation=aggregation, rounds=2), tmp_path / "run"
    run_job(job, folder=folder, observer=Watcher())
    model = peft.PeftModel.from_pretrained(stock(toy_model), folder / "adapter")
    given = logits(model)
    assert_equal(given, merged_by_hand(toy_model, folder / "adapter"))
    ours = attach_adapter(load_base_model(str(toy_model)).model, job)
    write_tensors(ours, load_file(folder / "checkpoint.safetensors"))
    assert torch.equal(given, logits(ours))
    assert not torch.allclose(given, logits(stock(toy_model)), atol=1e-3)
    model.save_pretrained(tmp_path / "again")
    written = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert written.keys() == load_file(tmp_path / "again" / "adapter_model.safetensors").keys()


@pytest.mark.parametrize("budget", [("--energy", "0.95"), ("--bytes", "6500")])
def test_ranks_by_module_and_their_flat_form_say_the_same(make_job, tmp_path, toy_model, budget):
    """A run squeezed from the front door: patterns and one rank load in PEFT as they were merged."""
    run_job(make_job(rank=6, alpha=12), folder=tmp_path / "run", observer=Watcher())
    source = tmp_path / "run" / "adapter"
    mixed, flat = tmp_path / "mixed", tmp_path / "flat"
    squeeze = ["finetune", "squeeze", "--output", str(mixed), *budget, str(source)]
    assert motley.main(squeeze) == 0
    # Without a further loss: what is flattened are the squeezed modules.
    squeeze = ["finetune", "squeeze", "--flat", "--energy", "1", "--output", str(flat), str(mixed)]
    assert motley.main(squeeze) == 0
    patterns = [json.loads((f / "adapter_config.json").read_text()) for f in (mixed, flat)]
    assert patterns[0]["rank_pattern"]
    assert patterns[1]["rank_pattern"] == patterns[1]["alpha_pattern"] == {}
    given = in_peft(toy_model, mixed)
    assert_equal(given, merged_by_hand(toy_model, mixed))
    assert_equal(in_peft(toy_model, flat), merged_by_hand(toy_model, flat))
    assert_equal(in_peft(toy_model, flat), given)
    assert not torch.allclose(given, in_peft(toy_model, source), atol=1e-4)
