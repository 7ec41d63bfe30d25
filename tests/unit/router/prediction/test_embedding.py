"""Embeddings of another server: what is sent, what is taken, and what is refused in one line."""

import base64
import json
from pathlib import Path

import click
import numpy as np
import pytest
from embedded_prompts import LENGTH, disguised_prompts, embedding_of
from fake_embedder import FakeEmbedder
from fakes import served_in_thread

from router.cli import run
from router.errors import EmbeddingError
from router.prediction.embedding import embedding_text, embeddings_body, read_embeddings
from router.prediction.embedding_fetch import BATCH_TEXTS, EmbeddingSource, fetch_embeddings
from router.prediction.features import CAP_CHARACTERS
from router.prediction.predictor import Predictor

TEXTS = [f"riverx night{number}" for number in range(BATCH_TEXTS + 3)]


def _answer(*vectors: object) -> bytes:
    data = [{"index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    return json.dumps({"data": data}).encode()


def test_numbers_and_base64_are_read_alike() -> None:
    """Both forms give the same array, in the order of the texts."""
    packed = base64.b64encode(np.array([1, -2.5], dtype="<f4").tobytes()).decode()
    one, other = read_embeddings(_answer([1, -2.5], packed), num_texts=2)
    assert np.array_equal(one, other)
    assert one.dtype == other.dtype == np.float32
    swapped = json.loads(_answer([1], [2]))
    swapped["data"].reverse()
    assert read_embeddings(json.dumps(swapped).encode(), num_texts=2)[1] == [2]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"[" * 100_000,
        b'{"data": 1}',
        b'{"data": [1]}',
        b'{"data": [{"index": 0}]}',
        b'{"data": [{"index": [], "embedding": [1]}]}',
        b'{"data": [{"index": 1, "embedding": [1]}]}',
        _answer(),
        _answer([]),
        _answer([[1]]),
        _answer([None]),
        _answer(["x"]),
        _answer([float("nan")]),
        _answer({"a": 1}),
        _answer(1),
        _answer("no base64"),
        _answer("AAA="),
        _answer("AACAfw=="),  # infinite
        _answer([1, 2, 3]),
    ],
)
def test_what_is_no_embedding_is_refused(content: bytes) -> None:
    """Any other shape, length or number ends in one line."""
    with pytest.raises(EmbeddingError) as caught:
        read_embeddings(content, num_texts=1, length=2 if content.endswith(b"3]}]}") else None)
    assert "\n" not in str(caught.value)


def test_lengths_that_differ_are_refused() -> None:
    """One answer holds embeddings of one length."""
    with pytest.raises(EmbeddingError, match="shape"):
        read_embeddings(_answer([1, 2], [1]), num_texts=2)


def test_texts_are_cut_as_for_hashing() -> None:
    """The beginning and the end go out, whatever lies between; odd characters do not break it."""
    cut = embedding_text("a" * 3 * CAP_CHARACTERS + "b")
    assert len(cut) == 2 * CAP_CHARACTERS + 1
    assert cut.endswith("ab")
    assert embedding_text(" \n") == ""
    assert json.loads(embeddings_body("m", ["\ud83d"]))["input"] == ["\ud83d"]


@pytest.mark.parametrize("knows_base64", [True, False])
def test_every_text_gets_its_own(knows_base64: bool) -> None:
    """In batches, in order, with the key; an empty text is not sent."""
    embedder = FakeEmbedder(key="secret", knows_base64=knows_base64)
    texts = ["", *TEXTS]
    told: list[tuple[int, int]] = []
    with served_in_thread(embedder.app) as url:
        source = EmbeddingSource(url, "embedder", "secret")
        found = fetch_embeddings(texts, source, progress=lambda *done: told.append(done))
    assert found[0] is None
    for text, vector in zip(TEXTS, found[1:], strict=True):
        assert vector is not None
        np.testing.assert_allclose(vector, embedding_of(text), atol=1e-6)
    assert len(embedder.bodies) == 2
    assert told == [(BATCH_TEXTS, len(texts)), (len(texts), len(texts))]


def test_a_text_that_is_too_long_has_none() -> None:
    """Its batch is sent again one by one; where no text is taken the reason is told."""
    embedder = FakeEmbedder(most_characters=20)
    with served_in_thread(embedder.app) as url:
        source = EmbeddingSource(url, "embedder")
        found = fetch_embeddings(["river", "x" * 21, "night"], source)
        assert [one is None for one in found] == [False, True, False]
        with pytest.raises(EmbeddingError, match=r"none of 2 texts .*HTTP 400: too long"):
            fetch_embeddings(["x" * 21, ""], source)


@pytest.mark.parametrize(
    ("embedder", "told"),
    [
        (FakeEmbedder(key="k"), "HTTP 401: no such key"),
        (FakeEmbedder(model="other"), "HTTP 404: no model embedder"),
        (FakeEmbedder(status=500), "HTTP 500: out of order"),
    ],
)
def test_a_server_that_cannot_be_used_is_one_clear_line(embedder: FakeEmbedder, told: str) -> None:
    """Address, status and its own words; nothing is sent twice."""
    with served_in_thread(embedder.app) as url:
        with pytest.raises(EmbeddingError, match=f"{url}.*{told}"):
            fetch_embeddings(TEXTS, EmbeddingSource(url, "embedder"))
        assert len(embedder.bodies) == 1
    with pytest.raises(EmbeddingError, match="cannot be asked"):
        fetch_embeddings(TEXTS, EmbeddingSource(url, "embedder"))


def test_commands_train_judge_and_explain_with_embeddings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where words say nothing the embedding is chosen, closes the gap, and has its line."""
    data, output = tmp_path / "data.json", tmp_path / "predictor.npz"
    data.write_text(json.dumps(disguised_prompts(120)))
    (tmp_path / "key").write_text("secret")
    with served_in_thread(FakeEmbedder(key="secret").app) as url:
        source = ["--embeddings-url", f"{url}/v1", "--api-key-file", f"{tmp_path}/key"]
        embedded = [*source, "--embeddings-model", "embedder"]
        run(["train", "--data", str(data), "--output", str(output), *embedded])
        trained = capsys.readouterr().out
        run(["evaluate", "--data", str(data), "--folds", "2", *embedded])
        judged = capsys.readouterr().out
        explain = ["explain", "riverbcd nightfgh", "--predictor", str(output)]
        run([*explain, *source])
        explained = capsys.readouterr().out
    assert f"120 of 120 prompts have one of {LENGTH} numbers" in trained
    assert "embedding_weight" in trained
    row = next(line for line in judged.splitlines() if line.strip().startswith("predictor"))
    assert float(row.split()[1]) > 0.9
    assert "pick: poet (best_predicted)" in explained
    assert "(embedding)" in explained
    run(explain)
    assert "counts as the mean" in capsys.readouterr().out
    assert Predictor.load(output).embedding is not None


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--embeddings-url", "http://h:1"], "needs --embeddings-model"),
        (["--embeddings-model", "m"], "--embeddings-url is missing"),
        (["--embeddings-url", "h:1", "--embeddings-model", "m"], "must be http://HOST:PORT"),
        (
            ["--embeddings-url", "http://h:1", "--embeddings-model", "m", "--grades", "g"],
            "holds no text",
        ),
    ],
)
def test_options_that_do_not_go_together(words: list[str], told: str, tmp_path: Path) -> None:
    """Told before anything is read."""
    with pytest.raises(click.UsageError, match=told):
        run(["train", "--data", f"{tmp_path}/none", "--output", f"{tmp_path}/p", *words])
