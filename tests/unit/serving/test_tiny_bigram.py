import numpy as np
import pytest

from serving.tiny.bigram import count_models, discount_of, interpolate


def test_bigram_equals_hand_computed_kneser_ney() -> None:
    """Probabilities of a corpus of nine tokens equal those worked out on paper."""
    documents = [np.array([0, 1, 2, 1, 2, 1, 3]), np.array([0, 3])]
    # Pairs: 01 once, 12 twice, 21 twice, 13 once, 03 once: n1 = 3, n2 = 2, discount 3/7.
    models = count_models(documents, vocabulary_size=4)
    # Distinct predecessors: of 1 {0, 2}, of 2 {1}, of 3 {1, 0}: n1 = 1, n2 = 2, discount 1/5.
    lower_3 = (2 - 1 / 5) / 5 + (3 / 5) / 5 / 4
    assert models.bigram_VV[1, 3] == pytest.approx((1 - 3 / 7) / 3 + 2 * (3 / 7) / 3 * lower_3)
    lower_0 = (3 / 5) / 5 / 4
    assert models.bigram_VV[1, 0] == pytest.approx(2 * (3 / 7) / 3 * lower_0)
    assert models.bigram_VV[3, 3] == pytest.approx(lower_3)  # nothing follows 3 in the text
    # Unigram counts 3, 2, 2 of 7: none once, so one half is taken off each.
    assert models.unigram_V[1] == pytest.approx(2.5 / 7 + 1.5 / 7 / 4)


def test_probabilities_sum_to_one() -> None:
    """Every row of the bigram and the unigram is a law, also rows without counts."""
    generator = np.random.default_rng(5)
    documents = [generator.geometric(0.2, size=300).clip(max=39) for _ in range(3)]
    models = count_models(documents, vocabulary_size=50)
    np.testing.assert_allclose(models.bigram_VV.sum(axis=1), 1)
    assert models.unigram_V.sum() == pytest.approx(1)
    assert models.bigram_VV.min() > 0


def test_no_pair_crosses_documents() -> None:
    """The last token of one document says nothing about the first of the next."""
    together = count_models([np.array([0, 1, 0, 2])] * 2, vocabulary_size=3)
    apart = count_models([np.array([0, 1]), np.array([0, 2])] * 2, vocabulary_size=3)
    assert together.bigram_VV[1, 0] > apart.bigram_VV[1, 0]


def test_nats_are_negative_log_probabilities() -> None:
    """Surprise of a document is taken token by token after its first."""
    ids = np.array([0, 1, 2], np.uint16)
    models = count_models([ids], vocabulary_size=3)
    expected = [-np.log(models.bigram_VV[0, 1]), -np.log(models.bigram_VV[1, 2])]
    np.testing.assert_allclose(models.bigram_nats(ids), expected)
    np.testing.assert_allclose(models.unigram_nats(ids), -np.log(models.unigram_V[[1, 2]]))


def test_discount_without_singletons_is_one_half() -> None:
    """The estimate is void where nothing was seen once."""
    assert discount_of(np.array([2, 3, 0])) == 0.5
    assert discount_of(np.array([1, 1, 2, 0])) == pytest.approx(2 / 4)


def test_row_without_counts_is_the_lower_law() -> None:
    """An unseen context falls back entirely."""
    lower = np.array([0.25, 0.75])
    np.testing.assert_allclose(interpolate(np.array([[0, 0], [1, 3]]), lower=lower)[0], lower)


def test_text_without_pairs_is_refused() -> None:
    """A corpus of single tokens cannot be counted."""
    with pytest.raises(ValueError, match="no pair"):
        count_models([np.array([0])], vocabulary_size=2)
