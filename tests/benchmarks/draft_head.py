"""The shipped Dovetail head beside the shipped small model: acceptance by depth, cost of a round."""

from pathlib import Path

import torch
from rich.console import Console
from rich.markdown import Markdown

from planner.model_folder import weights_sha256
from serving.draft_training.frozen import FrozenTarget
from serving.engine.head_folder import load_head
from serving.tiny.corpus import read_sources, split, standard_library
from serving.tiny.head_card import acceptance_table, cost_table
from serving.tiny.head_measure import compare_drafts

FAMILY = Path(__file__).parents[2] / "serving" / "models" / "tiny"
TEXT_TOKENS = 1024
"""Tokens of each held-out file, from its start."""


def run() -> dict[str, object]:
    """Judge and time both and print the tables of the head's README."""
    target = FrozenTarget.load(str(FAMILY / "target"), device="cpu")
    head = load_head(FAMILY / "head", target_sha256=weights_sha256(FAMILY / "target"))
    start = target.tokenizer.bos_token_id
    files = split(read_sources(standard_library())).held_out
    texts = [
        torch.tensor([start, *target.tokenizer.encode(file.text, verbose=False)][:TEXT_TOKENS])
        for file in files
    ]
    comparison = compare_drafts(head, target, FAMILY / "draft", texts=texts)
    costs = [cost_table(comparison, is_greedy=is_greedy) for is_greedy in (True, False)]
    for table in (acceptance_table(comparison), *costs):
        Console().print(Markdown(table))
    return comparison.model_dump()
