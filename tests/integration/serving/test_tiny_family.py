"""The shipped tiny family is what its card says, recomputed from the files."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from planner.documents import read_document
from serving.tiny.bigram import TokenIds, count_models
from serving.tiny.card import FamilyCard, HeldOutFile
from serving.tiny.corpus import Corpus, SourceFile, read_sources, split, standard_library
from serving.tiny.evaluate import Score, score
from serving.tiny.export import load_model, shipped_files
from serving.tiny.readme import render_readme

MAX_SHIPPED_BYTES = 25_000_000
MIN_GAIN_NATS = 0.3
MIN_AGREEMENT_FRACTION = 0.5
MAX_DRAFT_FRACTION = 0.2
"""Parameters of the draft over the target's; what a step costs is the card's to say."""
MIN_MATCHING_FILES = 5
QUICK_TOKENS = 20_000
"""Tokens that two slow cores judge in well under a minute; the slow test takes all."""


@dataclass(frozen=True)
class Judged:
    """A held-out file of the running Python and how the shipped models fare on it."""

    file: SourceFile
    ids: TokenIds
    score: Score


@pytest.fixture(scope="module")
def family() -> Path:
    """The folder that ships with the package."""
    return Path(str(resources.files("serving") / "models" / "tiny"))


@pytest.fixture(scope="module")
def card(family: Path) -> FamilyCard:
    """The shipped card."""
    return read_document(family / "card.json", FamilyCard)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """The split of the running Python's standard library."""
    return split(read_sources(standard_library()))


@pytest.fixture(scope="module")
def tokenizer(family: Path) -> PreTrainedTokenizerFast:
    """The shipped tokenizer."""
    return AutoTokenizer.from_pretrained(family / "target")


def ids_of(tokenizer: PreTrainedTokenizerFast, file: SourceFile) -> TokenIds:
    """Return a file's ids after the end-of-text id."""
    ids = tokenizer.backend_tokenizer.encode(file.text).ids
    return np.array([tokenizer.bos_token_id, *ids], np.uint16)


def judge(
    family: Path, tokenizer: PreTrainedTokenizerFast, files: list[SourceFile], *, max_tokens: int
) -> Iterator[Judged]:
    """Yield files, in the order of their hashes, with fresh scores, up to `max_tokens` tokens."""
    target, draft = load_model(family / "target"), load_model(family / "draft")
    context_tokens = target.config.max_position_embeddings
    spent_tokens = 0
    for file in sorted(files, key=lambda file: file.digest):
        ids = ids_of(tokenizer, file)
        if spent_tokens + len(ids) <= max_tokens:
            spent_tokens += len(ids)
            result = score(target, draft, ids, context_tokens=context_tokens)
            yield Judged(file, ids, result)


def check_against_card(card: FamilyCard, judged: list[Judged]) -> None:
    """Compare fresh scores with the card's, file by file and in total."""
    stated = {file.sha256: file for file in card.held_out_files}
    expected_nats = expected_agreeing = 0.0
    for one in judged:
        row: HeldOutFile = stated[one.file.digest]
        assert one.score.num_tokens == row.num_tokens, row.path
        loss = row.target_nats_per_token
        assert one.score.target_nats_per_token == pytest.approx(loss, rel=1e-2), row.path
        expected_nats += loss * row.num_tokens
        expected_agreeing += row.agreement_fraction * row.num_tokens
    total = sum((one.score for one in judged), Score())
    assert total.target_nats == pytest.approx(expected_nats, rel=5e-3)
    assert total.num_agreeing == pytest.approx(expected_agreeing, rel=1e-2)


def check_against_bounds(
    tokenizer: PreTrainedTokenizerFast, corpus: Corpus, judged: list[Judged]
) -> None:
    """Hold fresh scores against a bigram counted over this Python's own training files."""
    counts = count_models(
        [ids_of(tokenizer, file) for file in corpus.training], vocabulary_size=len(tokenizer)
    )
    total = sum((one.score for one in judged), Score())
    bigram_nats = sum(float(counts.bigram_nats(one.ids).sum()) for one in judged)
    assert total.target_nats_per_token <= bigram_nats / total.num_tokens - MIN_GAIN_NATS
    assert total.agreement_fraction >= MIN_AGREEMENT_FRACTION


def recompute(
    family: Path,
    card: FamilyCard,
    corpus: Corpus,
    tokenizer: PreTrainedTokenizerFast,
    *,
    max_tokens: int,
) -> None:
    """Judge the files the card judged; on a Python whose files differ, hold the bounds instead."""
    known = {file.sha256 for file in card.held_out_files}
    matching = [file for file in corpus.held_out if file.digest in known]
    if len(matching) >= MIN_MATCHING_FILES:
        judged = list(judge(family, tokenizer, matching, max_tokens=max_tokens))
        assert len(judged) >= MIN_MATCHING_FILES
        check_against_card(card, judged)
    else:
        judged = list(judge(family, tokenizer, list(corpus.held_out), max_tokens=max_tokens))
        check_against_bounds(tokenizer, corpus, judged)


def test_loss_and_agreement_recompute_from_the_shipped_files(
    family: Path, card: FamilyCard, corpus: Corpus, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Held-out loss and greedy agreement come out as stated, on a sample of whole files."""
    recompute(family, card, corpus, tokenizer, max_tokens=QUICK_TOKENS)


@pytest.mark.slow
def test_all_held_out_files_recompute(
    family: Path, card: FamilyCard, corpus: Corpus, tokenizer: PreTrainedTokenizerFast
) -> None:
    """Held-out loss and greedy agreement come out as stated, on every file."""
    recompute(family, card, corpus, tokenizer, max_tokens=10**9)


def test_card_states_a_target_worth_having(card: FamilyCard) -> None:
    """The stated target is well below the bigram; the draft is small and often agrees with it."""
    assert card.target_nats_per_token <= card.bigram_nats_per_token - MIN_GAIN_NATS
    assert card.agreement_fraction >= MIN_AGREEMENT_FRACTION
    assert card.draft.num_parameters <= MAX_DRAFT_FRACTION * card.target.num_parameters
    assert card.step_costs is not None


def test_readme_is_the_cards(family: Path, card: FamilyCard) -> None:
    """The shipped README is what the shipped card renders to."""
    assert (family / "README.md").read_text() == render_readme(card)


def test_shipped_files_are_the_cards(family: Path, card: FamilyCard) -> None:
    """Every shipped file has the stated hash, none is unlisted, and all together are small."""
    on_disk = [
        file
        for file in shipped_files(family)
        if file.path not in ("README.md", "card.json") and not file.path.startswith("head/")
    ]
    assert on_disk == card.shipped_files
    assert sum(path.stat().st_size for path in family.rglob("*")) <= MAX_SHIPPED_BYTES


def test_card_names_no_path_of_its_maker(family: Path) -> None:
    """Nothing in the card or the README tells where it was made."""
    for name in ("card.json", "README.md"):
        text = (family / name).read_text()
        assert "/home/" not in text
        assert "/root" not in text
