"""The shipped Dovetail head is what its card says, and fits the shipped target alone."""

from pathlib import Path

import pytest
import torch

from planner.documents import read_document
from planner.model_folder import weights_sha256
from serving.draft_training.acceptance import Acceptance, head_acceptance
from serving.draft_training.frozen import FrozenTarget
from serving.engine.dovetail_head import DovetailHead
from serving.engine.head_folder import is_head_folder, load_head
from serving.errors import ModelError
from serving.tiny.corpus import SourceFile, read_sources, split, standard_library
from serving.tiny.head_card import TinyHeadCard, render_head_readme
from serving.tiny.head_measure import PREFIX_TOKENS
from serving.tiny.recipe import Recipe

MOST_BYTES = 3_000_000
QUICK_FILES = 6
TEXT_TOKENS = 1024


@pytest.fixture(scope="module")
def card(tiny_family: Path) -> TinyHeadCard:
    """The shipped head's card."""
    return read_document(tiny_family / "head" / "card.json", TinyHeadCard)


@pytest.fixture(scope="module")
def frozen(tiny_family: Path) -> FrozenTarget:
    """The shipped target."""
    return FrozenTarget.load(str(tiny_family / "target"), device="cpu")


@pytest.fixture(scope="module")
def head(tiny_family: Path) -> DovetailHead:
    """The shipped head."""
    digest = weights_sha256(tiny_family / "target")
    return load_head(tiny_family / "head", target_sha256=digest)


def judge(head: DovetailHead, target: FrozenTarget, files: list[SourceFile]) -> Acceptance:
    """Return the acceptance over the beginnings of `files`."""
    total = Acceptance()
    start = target.tokenizer.bos_token_id
    for file in files:
        ids = [start, *target.tokenizer.backend_tokenizer.encode(file.text).ids][:TEXT_TOKENS]
        text = torch.tensor(ids)
        total += head_acceptance(
            head,
            embedding=target.embedding,
            output_head=target.output_head,
            ids=text,
            features=target.features(text),
        )
    return total


def test_the_head_is_small_and_its_readme_is_the_cards(tiny_family, card):
    """Weights of a few megabytes, a README rendered from the card, a folder that names its kind."""
    folder = tiny_family / "head"
    assert is_head_folder(folder)
    assert not is_head_folder(tiny_family / "draft")
    assert (folder / "model.safetensors").stat().st_size < MOST_BYTES
    assert (folder / "README.md").read_text() == render_head_readme(card)


def test_the_card_tells_the_recipe_that_the_code_follows(card):
    """The head's rebuild follows the recipe it was made with."""
    assert card.training.recipe == Recipe().head


def test_the_head_is_refused_for_another_target(tiny_family):
    """The family's draft has other weights, and its features mean nothing to the head."""
    with pytest.raises(ModelError, match="was trained for a target with weights"):
        load_head(tiny_family / "head", target_sha256=weights_sha256(tiny_family / "draft"))


def test_the_head_accepts_more_for_its_cost_than_the_small_model(card):
    """In the card's figures, at every length of round."""
    comparison = card.comparison
    ours, theirs = comparison.head, comparison.small_model
    for mine, other in (
        (ours.greedy_rounds, theirs.greedy_rounds),
        (ours.drawn_rounds, theirs.drawn_rounds),
    ):
        for count in mine:
            assert comparison.per_cost(mine[count]) > comparison.per_cost(other[count])


def test_some_files_are_accepted_about_as_the_card_says(head, frozen, card):
    """On a few held-out files acceptance is near the mean of all."""
    files = list(split(read_sources(standard_library())).held_out)
    first, *_ = judge(head, frozen, files[:QUICK_FILES]).fractions
    assert first == pytest.approx(card.comparison.head.text_fractions[0], abs=0.1)


@pytest.mark.slow
def test_acceptance_recomputes_from_the_shipped_files(head, frozen, card):
    """On the Python it was made with, every depth's acceptance is the card's."""
    files = list(split(read_sources(standard_library())).held_out)
    total = judge(head, frozen, files)
    if sum(total.num_reached[:1]) != card.training.num_judged[0]:
        pytest.skip("this Python's held-out files are others than the card's")
    assert total.fractions == pytest.approx(card.comparison.head.text_fractions, abs=0.005)
    assert len(files) * PREFIX_TOKENS <= card.comparison.num_text_tokens
