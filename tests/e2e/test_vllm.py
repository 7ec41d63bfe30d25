"""vLLM's own build for processors, supervised, with an adapter from `motley finetune`."""

import os
import re
import signal
import time

import httpx
import pytest
import torch
from lora_folders import make_adapter
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import motley
from planner.demo.processes import Server, motley_command

PROMPT = "def send(self, request):\n    "
NEW_TOKENS = 16
START_SECONDS = 900


@pytest.fixture
def server(tiny_family, tmp_path):
    """Return Motley in front of vLLM, which still loads: its log does not say `listening` yet."""
    words = ["serve", str(tiny_family / "target"), "--engine", "vllm", "--device", "cpu"]
    words += ["--port", "0", "--served-model-name", "tiny", "--dtype", "float32"]
    words += ["--kv-memory", "1GiB", "--threads", "1", "--max-sequences", "4"]
    words += ["--max-adapter-rank", "16", "--max-model-len", "256", "--enforce-eager"]
    with Server(motley_command(words), log=tmp_path / "vllm.log") as started:
        yield started


def _loading_url(folder):
    deadline = time.monotonic() + START_SECONDS
    while not (found := re.search(r"loading url=(\S+)", _log(folder))):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found[1]


def _wait_for(url, status):
    deadline = time.monotonic() + START_SECONDS
    while httpx.get(f"{url}/health", timeout=30).status_code != status:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def _pids(folder):
    """Return the process ids of vLLM's servers so far."""
    return [int(pid) for pid in re.findall(r"vllm ready pid=(\d+)", _log(folder))]


def _log(folder):
    return (folder / "vllm.log").read_text()


def _text(url, model):
    body = {"model": model, "prompt": PROMPT, "max_tokens": NEW_TOKENS, "temperature": 0}
    answer = httpx.post(f"{url}/v1/completions", json=body | {"ignore_eos": True}, timeout=300)
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == NEW_TOKENS
    return answer.json()["choices"][0]["text"]


def _expected(model, tokenizer):
    tokens = tokenizer(PROMPT, return_tensors="pt")
    text = model.generate(
        input_ids=tokens["input_ids"],
        attention_mask=tokens["attention_mask"],
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        eos_token_id=None,
        pad_token_id=1,
    )
    new = text[0, tokens["input_ids"].shape[1] :]
    return tokenizer.decode(new, skip_special_tokens=True)


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.timeout(1800)
@pytest.mark.usefixtures("vllm_python")
def test_vllm_answers_for_the_tiny_target_and_a_published_adapter(
    adapter, tiny_family, server, tmp_path
):
    """Both texts are transformers' own, after a swap and a crash too; stopping leaves no process."""
    base = tiny_family / "target"
    url = _loading_url(tmp_path)
    assert httpx.get(f"{url}/health").status_code == 503
    _wait_for(url, 200)
    assert httpx.get(f"{url}/version").json()["engine"] == "vllm"

    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(base)
    expected = _expected(plain, tokenizer)
    expected_adapted = _expected(PeftModel.from_pretrained(plain, adapter), tokenizer)

    other = make_adapter(base, tmp_path / "other", lora_alpha=200)
    load = {"lora_name": "three", "lora_path": str(other)}
    assert httpx.post(f"{url}/v1/load_lora_adapter", json=load, timeout=300).status_code == 200
    assert _text(url, "three") != expected_adapted
    publish = ["finetune", "publish", str(adapter), "--endpoint", url, "--name", "three"]
    assert motley.main([*publish, "--upload"]) == 0
    names = [card["id"] for card in httpx.get(f"{url}/v1/models").json()["data"]]
    assert names == ["tiny", "three"]
    assert _text(url, "tiny") == expected
    assert _text(url, "three") == expected_adapted

    os.kill(_pids(tmp_path)[0], signal.SIGKILL)
    _wait_for(url, 503)
    _wait_for(url, 200)
    assert _text(url, "three") == expected_adapted

    pid = _pids(tmp_path)[1]
    server.__exit__(None, None, None)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
