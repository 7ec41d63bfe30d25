"""Greedy text of 200 held-out beginnings is the target's own, whatever drafts and runs beside it."""

import random

import pytest
import torch
from generation import DRAFTERS, generate

from serving.engine.model import FlatModel
from serving.tiny.corpus import read_sources, split, standard_library

NUM_PROMPTS = 200
NEW_TOKENS = 24


@pytest.fixture(scope="session")
def held_out_prompts(tokenizer) -> list[list[int]]:
    """Return the tokens before 200 places of files that no model of the family was trained on."""
    files = split(read_sources(standard_library())).held_out
    generator = random.Random(0)
    prompts = []
    while len(prompts) < NUM_PROMPTS:
        text = generator.choice(files).text
        end = generator.randrange(len(text))
        tokens = tokenizer.encode(text[max(0, end - 1200) : end])
        if tokens:
            prompts.append(tokens[-generator.randint(1, 160) :])
    return prompts


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("quantization", ["float32", "int8", "int4"])
def test_no_drafter_and_no_batch_changes_a_token(
    quantization, tiny_family, drafts, held_out_prompts
):
    """Every drafter and none, alone and by eight, with each packed type of weight."""
    target = FlatModel.load(
        str(tiny_family / "target"), device="cpu", dtype=torch.float32, quantization=quantization
    )
    fields = {"max_tokens": NEW_TOKENS}
    plain, _ = generate(target, None, held_out_prompts, **fields)
    by_eight, _ = generate(target, None, held_out_prompts, max_sequences=8, **fields)
    assert by_eight == plain
    for name, kind in DRAFTERS.items():
        for max_sequences in (1, 8):
            texts, engine = generate(
                target,
                kind.make(drafts),
                held_out_prompts,
                num_draft_tokens=kind.num_nodes,
                max_sequences=max_sequences,
                **fields,
            )
            assert texts == plain, f"{name}, {max_sequences} at once"
            assert engine.counters.accepted_tokens > 0, name
