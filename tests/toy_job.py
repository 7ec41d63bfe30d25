"""A random Llama of 256 bytes' vocabulary, and jobs on it: small enough for any test."""

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

START = "<start>"
WORDS = {
    "numbers": ["one", "two", "three", "four"],
    "colours": ["red", "green", "blue", "white"],
    "animals": ["ox", "ape", "bee", "emu"],
}
"""Clients of a toy job and the words their texts are made of."""

CHAT_TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


def write_toy_model(folder: Path, *, chat_template: str | None = None) -> Path:
    """Write a random model and a byte-level tokenizer that was trained on nothing."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate([START, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=START)
    wrapped.chat_template = chat_template
    wrapped.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=128,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def write_texts(folder: Path) -> dict[str, Path]:
    """Write each client's JSON lines: twelve documents of its own words."""
    paths = {}
    for client, words in WORDS.items():
        rows = [{"text": " ".join(words[(i * k + k) % 4] for k in range(1, 40))} for i in range(12)]
        paths[client] = folder / f"{client}.jsonl"
        rows = [{"text": f"{number} {row['text']}"} for number, row in enumerate(rows)]
        paths[client].write_text("".join(json.dumps(row) + "\n" for row in rows))
    return paths


def job_content(folder: Path, texts: dict[str, Path], *, output: Path, **changes: Any) -> dict:
    """Return the content of a job on the model in `folder`.

    `changes` replace keys; None removes one.
    """
    content: dict[str, Any] = {
        "schema_version": 1,
        "name": "toy",
        "model": str(folder),
        "rank": 2,
        "alpha": 4,
        "target_modules": ["q_proj", "down_proj"],
        "rounds": 3,
        "local_steps": 2,
        "batch_size": 2,
        "sequence_tokens": 24,
        "learning_rate": 0.02,
        "held_out_fraction": 0.2,
        "output": str(output),
        "clients": [
            {"name": name, "data": {"kind": "jsonl", "path": str(path)}}
            for name, path in texts.items()
        ],
    }
    content.update(changes)
    return {key: value for key, value in content.items() if value is not None}


def write_job(path: Path, content: dict) -> Path:
    """Write a job file."""
    path.write_text(yaml.safe_dump(content))
    return path
