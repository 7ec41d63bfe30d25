from pathlib import Path

import pytest
import torch
from generation import Drafts
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from planner.model_folder import weights_sha256
from serving.engine.head_folder import load_head
from serving.engine.lean_head import LeanHead
from serving.engine.model import FlatModel, TokenModel
from serving.engine.model_drafter import leanest


@pytest.fixture(scope="session")
def target(tiny_family: Path) -> FlatModel:
    """Return the shipped target, loaded for the engine."""
    return FlatModel.load(str(tiny_family / "target"), device="cpu", dtype=torch.float32)


@pytest.fixture(scope="session")
def draft(tiny_family: Path) -> TokenModel:
    """Return the shipped draft, as the engine runs it."""
    return leanest(FlatModel.load(str(tiny_family / "draft"), device="cpu", dtype=torch.float32))


@pytest.fixture(scope="session")
def head(tiny_family: Path, target: FlatModel) -> LeanHead:
    """Return the shipped Dovetail head, as the engine runs it."""
    weight = target.model.get_output_embeddings().weight
    return LeanHead(
        load_head(tiny_family / "head", target_sha256=weights_sha256(tiny_family / "target")),
        embedding=target.model.get_input_embeddings().weight,
        output_head=weight,
    )


@pytest.fixture(scope="session")
def drafts(draft: TokenModel, head: LeanHead) -> Drafts:
    """Return what drafters with weights are made from."""
    return Drafts(draft, head)


@pytest.fixture(scope="session")
def tokenizer(tiny_family: Path) -> PreTrainedTokenizerBase:
    """Return the shipped tokenizer."""
    return AutoTokenizer.from_pretrained(tiny_family / "target")


@pytest.fixture(scope="session")
def prompts(tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Return the token ids of fifty different prompts, beginnings of Python code."""
    names = ["read", "write", "parse", "encode", "close", "match", "split", "format", "copy", "run"]
    forms = [
        "def {0}(self, name):\n    ",
        "import os\n\n\nclass {0}er:\n    def __init__(self",
        'def {0}_all(items):\n    """{0} all',
        "    try:\n        result = {0}(text)\n    except",
        "# {0} the next block of data\nfor ",
    ]
    return [tokenizer.encode(form.format(name)) for form in forms for name in names]
