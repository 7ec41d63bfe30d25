"""One text divided among clients."""

import json
from collections import Counter

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import motley
from finetune.client_texts import read_client
from finetune.config import ClientConfig
from finetune.data_split import Document, by_dirichlet, by_label, files_of, read_package
from finetune.errors import SplitError


def documents(labels):
    """Return one document of each label, each with a text of its own."""
    return [
        Document(json.dumps({"text": f"{label} {number}"}), label, 3)
        for number, label in enumerate(labels)
    ]


@given(
    labels=st.lists(st.sampled_from("abc"), min_size=40, max_size=80),
    alpha=st.floats(0.5, 100),
    num_clients=st.integers(1, 4),
    seed=st.integers(0, 9),
)
def test_every_document_goes_to_exactly_one_client(labels, alpha, num_clients, seed):
    """Whatever the draw, no document is lost or twice there, and all keep their order."""
    given_ = documents(labels)
    parts = by_dirichlet(given_, alpha=alpha, num_clients=num_clients, seed=seed)
    assert sorted(one.line for part in parts.values() for one in part) == sorted(
        one.line for one in given_
    )
    for part in parts.values():
        assert part == [one for one in given_ if one in part]
        assert len(part) >= 2


def spread(alpha, *, labels="abcd" * 100):
    """Return how unequal the clients' labels are: the mean share of each one's most common."""
    parts = by_dirichlet(documents(labels), alpha=alpha, num_clients=4, seed=3)
    shares = [
        Counter(one.label for one in part).most_common(1)[0][1] / len(part)
        for part in parts.values()
    ]
    return np.mean(shares)


def test_a_lower_concentration_makes_clients_more_unequal():
    """With 0.1 most of a client is of one label, with 1000 each label has its quarter."""
    assert spread(0.1) > 0.6 > spread(1.0) > 0.3
    assert spread(1000.0) == pytest.approx(0.25, abs=0.02)


def test_text_without_labels_is_divided_by_its_place():
    """Neighbours are alike: with a low concentration a client's documents stand together."""
    parts = by_dirichlet(documents("x" * 400), alpha=0.05, num_clients=4, seed=0)
    places = [[int(json.loads(one.line)["text"][2:]) // 100 for one in p] for p in parts.values()]
    assert np.mean([Counter(p).most_common(1)[0][1] / len(p) for p in places]) > 0.6


def test_the_seed_decides():
    """The same seed divides alike, another one does not."""
    first, again, other = (
        by_dirichlet(documents("ab" * 40), alpha=1.0, num_clients=3, seed=seed)
        for seed in (1, 1, 2)
    )
    assert first == again != other


def test_too_few_documents_for_the_clients_are_named():
    """A client needs two documents; where no draw gives them, the line says what to change."""
    with pytest.raises(SplitError, match="7 documents do not give each of 4 clients 2; lower"):
        by_dirichlet(documents("abababa"), alpha=1.0, num_clients=4, seed=0)
    with pytest.raises(SplitError, match="each of 4 clients 2 of the 8 documents; raise"):
        by_dirichlet(documents("abababab"), alpha=1e-3, num_clients=4, seed=0)
    with pytest.raises(SplitError, match="client 'b' has 1 document"):
        by_label(documents("aab"))


def test_the_divided_file_is_not_replaced_by_its_parts(tmp_path, capsys):
    """`--force` on the folder that holds it would lose it."""
    file = tmp_path / "all.jsonl"
    file.write_text('{"text": "one", "k": "a"}\n' * 4)
    words = ["finetune", "split", str(file), "--by-key", "k", "--output", str(tmp_path), "--force"]
    assert motley.main(words) == 2
    assert "which would be lost" in capsys.readouterr().err
    assert file.exists()


def test_a_run_is_not_replaced_by_parts(tmp_path, capsys):
    """A run's folder is worth more than what `--force` says of it."""
    file, folder = tmp_path / "all.jsonl", tmp_path / "run"
    file.write_text('{"text": "one", "k": "a"}\n' * 4)
    folder.mkdir()
    (folder / "job.json").write_text("{}")
    words = ["finetune", "split", str(file), "--by-key", "k", "--output", str(folder), "--force"]
    assert motley.main(words) == 2
    assert "holds a run" in capsys.readouterr().err
    assert (folder / "job.json").exists()


def test_labels_make_names():
    """Spaces and signs become dashes; two labels may not fall together, nor one vanish."""
    assert list(by_label(documents(["New York"] * 2 + ["日本 jp"] * 2))) == ["New-York", "jp"]
    with pytest.raises(SplitError, match="'a b' and 'a-b' both make a client 'a-b'"):
        by_label(documents(["a b", "a-b"] * 2))
    with pytest.raises(SplitError, match="makes no client's name"):
        by_label(documents(["日本", "日本"]))


def test_a_package_is_divided_by_its_folders():
    """Each file is a line of JSON with its text and folder."""
    found = read_package("rich", key="folder")
    files = files_of(by_dirichlet(found, alpha=1.0, num_clients=3, seed=0))
    rows = [json.loads(line) for text in files.values() for line in text.splitlines()]
    assert len(rows) == len(found)
    assert "rich" in {row["folder"] for row in rows}


@pytest.fixture
def split(tmp_path, capsys):
    """Run `motley finetune split` on some lines; return the exit code and what it said."""

    def run(rows, *words):
        file = tmp_path / "all.jsonl"
        file.write_text("".join(f"{row}\n" for row in rows))
        words = [str(file), "--output", str(tmp_path / "parts"), *words]
        code = motley.main(["finetune", "split", *words])
        captured = capsys.readouterr()
        return code, captured.err if code else captured.out

    return run


LAW = '{"text": "a law \\u00e9",  "domain": "law"}'
CHAT = '{"domain": "chat", "messages": [{"role": "user", "content": "hi"}]}'


def test_the_files_are_clients_of_a_job(split, tmp_path):
    """Lines are kept as they are, in both forms; the snippet names files that clients can read."""
    rows = [LAW, CHAT, LAW.replace("a law", "one more"), CHAT.replace("hi", "ho"), ""]
    code, printed = split(rows, "--by-key", "domain")
    assert code == 0
    assert "law" in printed
    assert (tmp_path / "parts" / "law.jsonl").read_text() == f"{rows[0]}\n{rows[2]}\n"
    assert (tmp_path / "parts" / "chat.jsonl").read_text() == f"{rows[1]}\n{rows[3]}\n"
    snippet = yaml.safe_load((tmp_path / "parts" / "clients.yaml").read_text())
    for content in snippet["clients"]:
        client = ClientConfig.model_validate(content)
        texts = read_client(client, held_out_fraction=0.5, render_chat=str)
        assert (len(texts.training), len(texts.held_out)) == (1, 1)


@pytest.mark.parametrize(
    ("rows", "words", "says"),
    [
        ([LAW, "{"], ["--by-key", "domain"], "all.jsonl:2: malformed JSON"),
        ([LAW, '{"domain": 1}'], ["--by-key", "domain"], 'all.jsonl:2: holds neither {"text"'),
        ([LAW, '{"text": "x"}'], ["--by-key", "domain"], "all.jsonl:2: its 'domain' is null"),
        ([], ["--by-key", "domain"], "holds no text"),
        ([LAW], ["--by-key", "domain"], "client 'law' has 1 document"),
        ([LAW], [], "give either --by-key or --dirichlet"),
        ([LAW], ["--by-key", "a", "--dirichlet", "1"], "give either --by-key or --dirichlet"),
        ([LAW], ["--by-key", "a", "--clients", "2"], "go with --dirichlet"),
        ([LAW], ["--dirichlet", "1"], "--clients is missing"),
        ([LAW], ["--dirichlet", "0", "--clients", "2"], "--dirichlet 0 is no concentration"),
        ([LAW], ["--dirichlet", "1", "--clients", "0"], "--clients 0 is too few"),
        ([LAW], ["--by-key", "a", "--package", "rich"], "give either FILE or --package"),
    ],
)
def test_a_division_that_cannot_be_is_one_line(split, tmp_path, rows, words, says):
    """The line says where and what; nothing is written."""
    code, error = split(rows, *words)
    assert code == 2
    assert says in " ".join(error.split())
    assert not (tmp_path / "parts").exists()


def test_a_folder_in_use_is_left_alone(split, tmp_path):
    """What stands there is replaced only with --force."""
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "thesis.txt").write_text("mine")
    rows = [LAW, LAW.replace("a law", "one more")]
    code, error = split(rows, "--by-key", "domain")
    assert code == 2
    assert "is not empty" in error
    assert split(rows, "--by-key", "domain", "--force")[0] == 0
    assert not (tmp_path / "parts" / "thesis.txt").exists()
