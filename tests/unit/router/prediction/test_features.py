import re
import subprocess
import sys

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from router.prediction.cues import CUES
from router.prediction.features import (
    CAP_CHARACTERS,
    NUM_BUCKETS,
    HashedFeatures,
    grams_of,
    hash_text,
)


def _same(one: HashedFeatures, other: HashedFeatures) -> bool:
    return all(
        np.array_equal(getattr(one, name), getattr(other, name))
        for name in ("indices", "values", "cues")
    )


@given(st.text(alphabet=st.characters(), max_size=300))
def test_any_text_has_features(text: str) -> None:
    """Indices rise within the buckets, and every number is finite; no text is refused."""
    features = hash_text(text)
    assert np.all(np.diff(features.indices.astype(np.int64)) > 0)
    assert features.indices.size == 0 or int(features.indices[-1]) < NUM_BUCKETS
    assert np.isfinite(features.values).all()
    assert np.all(features.values != 0)
    assert features.cues.shape == (len(CUES),)
    assert np.isfinite(features.cues).all()


def test_another_process_hashes_alike() -> None:
    """Features do not depend on Python's salted hash."""
    text = "Which of these is 中文, naïve or 3.14?"
    code = (
        "from router.prediction.features import hash_text\n"
        f"f = hash_text({text!r})\n"
        "print(f.indices.tolist(), f.values.tolist())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    own = hash_text(text)
    assert outputs == {f"{own.indices.tolist()} {own.values.tolist()}\n"}


def test_case_and_white_space_do_not_change_the_words() -> None:
    """Only cues tell capitals and line breaks."""
    one, other = hash_text("Name the  River\nin Spain"), hash_text(" name the river in spain ")
    assert np.array_equal(one.indices, other.indices)
    assert np.array_equal(one.values, other.values)


def test_the_middle_of_a_long_prompt_is_not_looked_at() -> None:
    """Work is bounded: both ends count, whatever is between."""
    begin, end = "alpha " * 800, " omega" * 800
    assert len(begin) >= CAP_CHARACTERS <= len(end)
    one = hash_text(begin + "x " * 10 + end)
    other = hash_text(begin + "y " * 90_000 + end)
    assert _same(one, other)


def test_words_and_pairs_are_counted_once_each() -> None:
    """Three different words fill three buckets, and the pairs with both ends four more."""
    assert len(hash_text("red green blue").indices) == 7


def test_half_of_a_surrogate_pair_is_hashed_too() -> None:
    """JSON may hold text that has no UTF-8."""
    assert len(hash_text("\ud83d").indices) > 0


@given(st.text(alphabet="aB9_é?\n 中かβ😀", max_size=40))
def test_tokens_are_those_of_a_plain_expression(text: str) -> None:
    """Runs of letters, single digits and signs, ideographs one by one."""
    expression = r"[\u3000-\ud7ff]|(?:(?![\u3000-\ud7ff])[a-z\u0080-\U0010ffff])+|[^\s]"
    tokens = re.findall(expression, text.strip().lower())
    names = [name for name, _, _ in grams_of(text)]
    assert names[: len(tokens)] == tokens
    assert len(names) == 2 * len(tokens) + 1


def test_a_gram_lies_where_the_features_have_it() -> None:
    """Buckets and signs of the grams add up to the features' values."""
    text = "the cat and the dog and the bird"
    sums = np.zeros(NUM_BUCKETS)
    for _, bucket, sign in grams_of(text):
        sums[bucket] += sign
    features = hash_text(text)
    expected = np.sign(sums) * np.log1p(np.abs(sums))
    assert np.array_equal(features.indices, np.flatnonzero(sums))
    np.testing.assert_allclose(features.values, expected[features.indices], rtol=1e-6)
