"""The adapter of a federated job in vLLM: what transformers and PEFT say with it merged, in float32."""

import inspect
import json
import logging
import os
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import vllm_texts
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import motley

NEW_TOKENS = 16
NUM_PROMPTS = 50
LOGPROB_TOLERANCE = 1e-3
NEAR = 1e-4
"""Two tokens whose log-probabilities are nearer than this are a tie that rounding decides."""

logger = logging.getLogger(__name__)

pytestmark = [pytest.mark.slow, pytest.mark.network, pytest.mark.timeout(1800)]


@pytest.fixture
def adapters(repository, tiny_family, tmp_path) -> dict[str, Path | None]:
    """Return no adapter, a trained one, that one with ranks by module, and their flat form."""
    job = yaml.safe_load((repository / "configs/finetune/three-clients.yaml").read_text())
    job |= {"model": str(tiny_family / "target"), "output": str(tmp_path / "run"), "rounds": 2}
    job |= {"local_steps": 4, "batch_size": 2, "sequence_tokens": 128, "held_out_tokens": 256}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    assert motley.main(["finetune", "run", str(tmp_path / "job.yaml")]) == 0
    trained = tmp_path / "run" / "adapter"
    mixed, flat = tmp_path / "mixed", tmp_path / "flat"
    squeeze = ["finetune", "squeeze", "--energy"]
    assert motley.main([*squeeze, "0.9", "--output", str(mixed), str(trained)]) == 0
    assert motley.main([*squeeze, "1", "--flat", "--output", str(flat), str(mixed)]) == 0
    config = json.loads((mixed / "adapter_config.json").read_text())
    assert len({config["r"], *config["rank_pattern"].values()}) > 2, "the ranks must differ"
    return {"base": None, "trained": trained, "mixed": mixed, "flat": flat}


@pytest.fixture
def prompts(tiny_family) -> list[list[int]]:
    """Return the token ids of prompts of 5 to 54 tokens: code that every Python carries."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_family / "target")
    ids = tokenizer.encode(inspect.getsource(inspect))
    ends = [sum(range(5, 5 + number)) for number in range(NUM_PROMPTS + 1)]
    return [ids[start:end] for start, end in pairwise(ends)]


@pytest.fixture
def in_vllm(vllm_python, tiny_family, adapters, prompts, tmp_path) -> dict:
    """Return vLLM's greedy tokens and prompt log-probabilities by adapter."""
    job = {
        "model": str(tiny_family / "target"),
        "most_rank": 8,
        "new_tokens": NEW_TOKENS,
        "prompts": prompts,
        "adapters": {name: folder and str(folder) for name, folder in adapters.items()},
    }
    (tmp_path / "texts.json").write_text(json.dumps(job))
    done = subprocess.run(
        [vllm_python, "-P", vllm_texts.__file__, tmp_path / "texts.json", tmp_path / "answers"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=1500,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return json.loads((tmp_path / "answers").read_text())


def merged(base: Path, adapter: Path | None) -> torch.nn.Module:
    """Return the base model with the adapter added to its weights, by transformers and PEFT alone."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    return model.eval()


def logprobs_after(model: torch.nn.Module, tokens: list[int]) -> torch.Tensor:
    """Return the log-probabilities of what follows each token. Shape: (tokens, vocabulary)."""
    with torch.inference_mode():
        return torch.log_softmax(model(input_ids=torch.tensor([tokens])).logits[0], dim=-1)


def test_vllm_says_what_merged_weights_say(in_vllm, adapters, prompts, tiny_family, caplog):
    """Prompt log-probabilities to 1e-3; every greedy token is the likeliest, ties by rounding told.

    A token after one that rounding chose is judged after that one, so that no tie hides the rest.
    """
    caplog.set_level(logging.INFO)
    said = {}
    for name, folder in adapters.items():
        model = merged(tiny_family / "target", folder)
        furthest, num_ties, num_tokens = 0.0, 0, 0
        for prompt, answer in zip(prompts, in_vllm[name], strict=True):
            assert len(answer["tokens"]) == NEW_TOKENS
            whole_LV = logprobs_after(model, prompt + answer["tokens"])
            own = whole_LV[: len(prompt) - 1].gather(1, torch.tensor(prompt[1:])[:, None])[:, 0]
            difference = (own - torch.tensor(answer["logprobs"])).abs().max().item()
            assert difference < LOGPROB_TOLERANCE, (name, prompt)
            furthest = max(furthest, difference)
            for row_V, token in zip(whole_LV[len(prompt) - 1 :], answer["tokens"], strict=False):
                first, second = row_V.topk(2).values.tolist()
                assert first - row_V[token].item() < NEAR, (name, prompt, token)
                num_ties += first - second < NEAR
                num_tokens += 1
                assert first - second < NEAR or token == int(row_V.argmax())
        said[name] = [answer["tokens"] for answer in in_vllm[name]]
        logger.info(
            "adapter=%s tokens=%d ties=%d largest_difference=%.2e",
            name, num_tokens, num_ties, furthest,
        )  # fmt: skip
        assert num_ties < 0.01 * num_tokens, "too many ties to tell the texts apart"
    for name in ("trained", "mixed", "flat"):
        assert said[name] != said["base"], f"{name}: vLLM answers as without the adapter"
