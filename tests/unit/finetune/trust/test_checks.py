"""Which updates the server believes beside those of a wrong form."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

from finetune.trust.checks import FORM_ONLY, Checks
from finetune.trust.identity import BaseIdentity, base_identity
from finetune.trust.norms import change_norm, product_change_norm, product_norm
from finetune.updates import Update

OURS = BaseIdentity(b"w" * 32, b"t" * 32, b"c" * 32)
DOWN, UP = "m.q.lora_A.weight", "m.q.lora_B.weight"
START = {DOWN: np.ones((2, 3), np.float32), UP: np.zeros((4, 2), np.float32)}


def update(*, up=1.0, identity=OURS, version=3):
    """Return an update whose B is `up` everywhere."""
    tensors = {DOWN: START[DOWN], UP: np.full((4, 2), up, np.float32)}
    return Update("c", tensors, 5, 1.0, sent_bytes=0, identity=identity, version=version)


def test_the_jobs_own_base_model_is_accepted():
    """Same weights, tokenizer and template, right version: no reason to refuse."""
    assert Checks(identity=OURS).reason(update(), like=START, version=3) is None


@pytest.mark.parametrize("part", ["weights", "tokenizer", "template"])
def test_another_base_model_is_refused_by_the_part_that_differs(part):
    """The reason names the part, both digests and what to do."""
    other = BaseIdentity(
        **{
            "weights": OURS.weights,
            "tokenizer": OURS.tokenizer,
            "template": OURS.template,
            part: b"x" * 32,
        }
    )
    reason = Checks(identity=OURS).reason(update(identity=other), like=START)
    assert reason.startswith(f"base model's {part} 787878787878, the job's")
    assert "; " in reason


def test_a_client_that_declares_nothing_is_refused_where_it_is_asked():
    """Silence is no match; a server that asks for no base model takes it."""
    silent = update(identity=None, version=None)
    assert "declares no base model" in Checks(identity=OURS).reason(silent, like=START)
    assert FORM_ONLY.reason(silent, like=START, version=3) is None


def test_an_update_of_another_round_is_refused():
    """A reply that was trained from an earlier adapter does not count as this round's."""
    reason = FORM_ONLY.reason(update(version=2), like=START, version=3)
    assert reason == "was trained from adapter version 2, not 3"


def test_a_long_change_is_refused():
    """Eight entries of 1 are a change of norm sqrt 8; the products change by 2 sqrt 48."""
    assert Checks(most_norm=2.9).reason(update(), like=START) is None
    assert "by norm 2.828, above 2.5" in Checks(most_norm=2.5).reason(update(), like=START)
    assert Checks(most_product_norm=13.9, scale=2.0).reason(update(), like=START) is None
    reason = Checks(most_product_norm=13.8, scale=2.0).reason(update(), like=START)
    assert reason == "changes the products by norm 13.86, above 13.8"


@given(
    rows=st.integers(1, 6),
    columns=st.integers(1, 6),
    rank=st.integers(1, 8),
    seed=st.integers(0, 99),
)
def test_the_norm_of_a_product_needs_no_product(rows, columns, rank, seed):
    """By QR it is the norm of the product itself, at any rank and orientation."""
    generator = np.random.default_rng(seed)
    up, down = generator.normal(size=(rows, rank)), generator.normal(size=(rank, columns))
    expected = np.linalg.norm(0.5 * up @ down)
    assert product_norm(up, down, scale=0.5) == pytest.approx(expected, rel=1e-9)


def test_the_change_of_products_is_that_of_the_full_matrices():
    """Of an adapter of other rank too; an adapter does not differ from itself."""
    generator = np.random.default_rng(3)
    start = {DOWN: generator.normal(size=(2, 5)), UP: generator.normal(size=(4, 2))}
    after = {DOWN: generator.normal(size=(3, 5)), UP: generator.normal(size=(4, 3))}
    expected = np.linalg.norm(2 * (after[UP] @ after[DOWN] - start[UP] @ start[DOWN]))
    assert product_change_norm(after, start=start, scale=2.0) == pytest.approx(expected, rel=1e-9)
    assert product_change_norm(start, start=start, scale=2.0) == pytest.approx(0.0, abs=1e-12)
    assert change_norm(start, start=start) == 0.0


def fast_tokenizer(vocabulary):
    """Return what the identity reads of a fast tokenizer."""
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    return SimpleNamespace(
        backend_tokenizer=backend,
        to_str=backend.to_str,
        special_tokens_map={"bos_token": "<s>"},
        chat_template=None,
    )


def test_the_identity_follows_what_decides_the_ids():
    """Vocabulary, special tokens and template count; settings of the last call do not."""
    tokenizer = fast_tokenizer({"a": 0, "b": 1})
    first = base_identity("ab" * 32, tokenizer)
    assert first.weights == b"\xab" * 32
    tokenizer.backend_tokenizer.enable_padding(length=8)
    tokenizer.backend_tokenizer.enable_truncation(4)
    assert base_identity("ab" * 32, tokenizer) == first
    swapped = base_identity("ab" * 32, fast_tokenizer({"a": 1, "b": 0}))
    assert swapped.tokenizer != first.tokenizer
    tokenizer.special_tokens_map = {"bos_token": "b"}
    assert base_identity("ab" * 32, tokenizer).tokenizer != first.tokenizer
    tokenizer.chat_template = "{{ messages }}"
    assert base_identity("ab" * 32, tokenizer).template != first.template


def test_a_slow_tokenizer_has_an_identity_too():
    """Without a Rust backend the vocabulary stands for the rules."""
    slow = SimpleNamespace(
        special_tokens_map={}, chat_template=None, get_vocab=lambda: {"b": 1, "a": 0}
    )
    assert (
        base_identity("00" * 32, slow).tokenizer
        != base_identity(
            "00" * 32,
            SimpleNamespace(special_tokens_map={}, chat_template=None, get_vocab=lambda: {"a": 1}),
        ).tokenizer
    )
