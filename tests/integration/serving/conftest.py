from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from serving.engine.lean_llama import leanest
from serving.engine.model import FlatModel, TokenModel


@pytest.fixture(scope="session")
def target(tiny_family: Path) -> FlatModel:
    """Return the shipped target, loaded for the engine."""
    return FlatModel.load(str(tiny_family / "target"), device="cpu", dtype=torch.float32)


@pytest.fixture(scope="session")
def draft(tiny_family: Path) -> TokenModel:
    """Return the shipped draft, as the engine runs it."""
    return leanest(FlatModel.load(str(tiny_family / "draft"), device="cpu", dtype=torch.float32))


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
