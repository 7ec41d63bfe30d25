import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.prediction.features import NUM_BUCKETS, hash_text
from router.prediction.neighbours import make_neighbours
from router.prediction.projection import fit_projection
from router.prediction.ridge import fit_ridge
from router.prediction.sparse_rows import SparseRows, stack


def _dense(rows: SparseRows) -> np.ndarray:
    matrix = np.zeros((rows.num_rows, rows.num_columns), dtype=np.float32)
    for row in range(rows.num_rows):
        for entry in range(rows.starts[row], rows.starts[row + 1]):
            matrix[row, rows.columns[entry]] += rows.values[entry]
    return matrix


@given(st.integers(0, 200))
def test_sparse_products_are_the_dense_ones(seed: int) -> None:
    """Times a dense matrix, as it is and transposed, empty rows included."""
    generator = np.random.default_rng(seed)
    matrix = generator.random((7, 5)).astype(np.float32) * (generator.random((7, 5)) < 0.3)
    filled = [np.flatnonzero(row) for row in matrix]
    starts = np.concatenate(([0], np.cumsum([len(one) for one in filled])))
    columns = np.concatenate(filled).astype(np.int64)
    values = matrix[matrix != 0].astype(np.float32)
    rows = SparseRows(starts, columns, values, 5)
    right = generator.random((5, 3)).astype(np.float32)
    np.testing.assert_allclose(rows.times(right), matrix @ right, atol=1e-5)
    np.testing.assert_array_equal(_dense(rows.transposed()), matrix.T)


def test_products_in_chunks_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows longer than a chunk, and chunks of many rows, add up alike."""
    features = [hash_text(" ".join(f"w{n}x{i}" for i in range(n))) for n in (0, 30, 1, 2, 9, 0, 4)]
    rows = stack(features, num_columns=NUM_BUCKETS)
    right = np.random.default_rng(0).random((NUM_BUCKETS, 2)).astype(np.float32)
    whole = rows.times(right)
    monkeypatch.setattr("router.prediction.sparse_rows._CHUNK_ENTRIES", 10)
    np.testing.assert_allclose(rows.times(right), whole, atol=1e-5)


def test_the_projection_spans_the_leading_singular_vectors() -> None:
    """Against numpy's full decomposition of the same weighted matrix."""
    generator = np.random.default_rng(0)
    words = [f"word{number}" for number in range(40)]
    features = [hash_text(" ".join(generator.choice(words[:20], 6))) for _ in range(60)]
    projection = fit_projection(features, num_dimensions=5)
    kept = projection.rows >= 0
    matrix = np.zeros((60, int(kept.sum())))
    for row, one in enumerate(features):
        for bucket, value in zip(one.indices, one.values, strict=True):
            if kept[bucket]:
                place = projection.rows[bucket]
                matrix[row, place] = value * projection.bucket_weights[place]
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    _, singular, _ = np.linalg.svd(matrix)
    found = np.linalg.norm(matrix @ projection.components, axis=0)
    np.testing.assert_allclose(found, singular[:5], rtol=0.02)


def test_a_prompt_of_unknown_words_is_projected_to_nothing() -> None:
    """Only its cues are left."""
    projection = fit_projection([hash_text("a b c"), hash_text("a b d")] * 3, num_dimensions=4)
    vector = projection.project(hash_text("zebra"), num_dimensions=4, cue_weight=0.5)
    assert not vector[:4].any()


def test_prompts_without_a_word_are_projected_too() -> None:
    """Training on empty prompts alone ends in zeros, not in an error."""
    projection = fit_projection([hash_text("")] * 3, num_dimensions=4)
    vector = projection.project(hash_text("word"), num_dimensions=4, cue_weight=0.1)
    assert np.isfinite(vector).all()


def test_ridge_is_the_closed_form_model_by_model() -> None:
    """Shared or not, each model's weights solve its own penalised normal equations."""
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(50, 4)).astype(np.float32)
    losses = generator.random((50, 3)).astype(np.float32)
    losses[:20, 1] = np.nan
    ridge = fit_ridge(vectors, losses, penalty=2.0)
    for model in range(3):
        known = ~np.isnan(losses[:, model])
        centered = (vectors - vectors.mean(axis=0))[known]
        gram = centered.T @ centered + 2.0 * np.eye(4)
        expected = np.linalg.solve(gram, centered.T @ (losses[known, model] - ridge.means[model]))
        np.testing.assert_allclose(ridge.weights[:, model], expected, atol=1e-4)


def test_neighbours_are_a_weighted_mean_over_those_with_labels() -> None:
    """By hand: two neighbours of cosine 1 and the mean as a third; missing labels are left out."""
    vectors = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    losses = np.array([[0.0, np.nan], [1.0, 1.0], [1.0, 0.0]], dtype=np.float32)
    table = make_neighbours(vectors, losses, np.array([0.5, 0.5], dtype=np.float32))
    predicted, counts = table.predict(vectors[:1], num_neighbours=2, sharpness=2.0)
    np.testing.assert_allclose(predicted, [[1.5 / 3, 1.5 / 2]], rtol=1e-5)
    np.testing.assert_allclose(counts, [[3.0, 2.0]], rtol=1e-5)
