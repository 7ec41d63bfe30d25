"""An adapter trained federatedly answers in a live endpoint exactly as plain PEFT says it should."""

import httpx
import torch
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
    words = ["finetune", "publish", str(adapter), "--endpoint", url, "--name", "three"]
    assert motley.main(words) == 0
    body = {"model": "three", "prompt": PROMPT, "max_tokens": NEW_TOKENS, "temperature": 0}
    answer = httpx.post(f"{url}/v1/completions", json=body | {"ignore_eos": True}, timeout=60)
    text = reference.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=NEW_TOKENS,
        eos_token_id=None,
        pad_token_id=1,
    )
    expected_text = tokenizer.decode(text[0, len(tokens) :], skip_special_tokens=True)
    assert answer.json()["choices"][0]["text"] == expected_text
