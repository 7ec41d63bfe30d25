"""An adapter trained federatedly answers in a live endpoint exactly as plain PEFT says it should."""

import os
import signal

import httpx
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

import motley
from serving.engine.kv_cache import KVPool, SequenceCache
from serving.engine.model import FlatModel
from serving.engine.rows import Rows

PROMPT = "def send(self, request):\n    "
NEW_TOKENS = 24


def test_a_published_adapter_answers_as_plain_peft_does(adapter, tiny_family, start_replica):
    """Engine logits equal PEFT's to 1e-4, and the endpoint's greedy text is PEFT's own."""
    base = tiny_family / "target"
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokens = tokenizer.encode(PROMPT)
    ids = torch.tensor([tokens])
    plain = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    reference = PeftModel.from_pretrained(plain, adapter)

    model = FlatModel.load(str(base), device="cpu", dtype=torch.float32)
    rows = Rows(
        tokens, SequenceCache(KVPool.for_tokens(64)), len(tokens), model.read_adapter(adapter)
    )
    with torch.inference_mode():
        expected = reference(ids).logits[0]
    assert torch.allclose(model.forward([rows]), expected, atol=1e-4)

    _, url = start_replica("replica")
    words = ["finetune", "publish", str(adapter), "--endpoint", url]
    assert motley.main([*words, "--name", "three"]) == 0
    assert motley.main([*words, "--name", "sent", "--upload"]) == 0
    body = {"prompt": PROMPT, "max_tokens": NEW_TOKENS, "temperature": 0, "ignore_eos": True}
    answers = [
        httpx.post(f"{url}/v1/completions", json=body | {"model": name}, timeout=60)
        for name in ("three", "sent")
    ]
    text = reference.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        eos_token_id=None,
        pad_token_id=1,
    )
    expected_text = tokenizer.decode(text[0, len(tokens) :], skip_special_tokens=True)
    for answer in answers:
        assert answer.json()["choices"][0]["text"] == expected_text


def test_an_adapter_is_sent_through_the_router(adapter, start, tmp_path, monkeypatch, capsys):
    """One command with an admin's key, and every replica answers under the name; at the end no file stays."""
    keys, kept = tmp_path / "keys", tmp_path / "kept"
    keys.write_text("s3cret\n")
    keys.chmod(0o600)
    replica = ["serve", "llama-3.1-8b", "--engine", "emulated", "--hardware", "a100", "--port", "0"]
    replica += ["--admin-key-file", str(keys), "--adapter-upload-dir", str(kept)]
    servers = [start(f"replica-{number}", *replica) for number in (1, 2)]
    model = {"name": "llama-3.1-8b", "replicas": [{"url": url} for _, url in servers]}
    file = tmp_path / "router.yaml"
    content = {"port": 0, "models": [model], "health": {"api_key_file": str(keys)}}
    file.write_text(yaml.safe_dump(content))
    _, url = start("router", "route", str(file))

    words = ["finetune", "publish", str(adapter), "--endpoint", url, "--name", "sent", "--upload"]
    assert motley.main(words) == 1
    assert "HTTP 401" in capsys.readouterr().err
    monkeypatch.setenv("MOTLEY_API_KEY", "s3cret")
    for _ in range(2):
        assert motley.main(words) == 0
    assert "'sent'" in capsys.readouterr().out
    headers = {"authorization": "Bearer s3cret"}
    listed = httpx.get(f"{url}/admin/adapters", headers=headers).json()
    assert {(card["id"], card["replica"]) for card in listed["data"]} == {
        ("sent", replica_url) for _, replica_url in servers
    }
    body = {"model": "sent", "prompt": "a", "max_tokens": 1}
    answer = httpx.post(f"{url}/v1/completions", json=body, headers=headers)
    assert answer.json()["model"] == "sent"
    for server, _ in servers:
        os.kill(server.pid, signal.SIGTERM)
        server.wait(30)
    assert list(kept.iterdir()) == []
    for log in tmp_path.glob("*.log"):
        assert "s3cret" not in log.read_text()
