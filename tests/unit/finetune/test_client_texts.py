"""Reading and splitting a client's documents."""

import json
import sys
from types import ModuleType

import pytest

from finetune.client_texts import read_client, read_documents, split
from finetune.config import ClientConfig, JsonlData, PackageData
from finetune.errors import ClientDataError


def no_chat(messages):
    """Refuse every chat, as a model without a template does."""
    raise ValueError("the base model has no chat template")


def client(data):
    """Return a client named c."""
    return ClientConfig(name="c", data=data)


def jsonl(tmp_path, *rows):
    """Return a client whose file holds these lines."""
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(f"{row}\n" for row in rows))
    return client(JsonlData(kind="jsonl", path=path))


def test_split_is_whole_and_disjoint():
    """Every document stands on exactly one side, in its order."""
    documents = [f"document {number}" for number in range(200)]
    training, held_out = split(documents, held_out_fraction=0.2)
    assert sorted(training + held_out) == sorted(documents)
    assert not set(training) & set(held_out)
    assert 20 < len(held_out) < 60
    assert list(training) == [document for document in documents if document in training]


def test_added_documents_move_none_across():
    """A document's side depends on its own text alone."""
    documents = [f"document {number}" for number in range(100)]
    _, held_out = split(documents, held_out_fraction=0.3)
    _, held_out_later = split([*documents, "another", "a third"], held_out_fraction=0.3)
    assert set(held_out) <= set(held_out_later)


@pytest.mark.parametrize("fraction", [1e-9, 0.5, 1 - 1e-9])
def test_two_documents_go_one_each_way(fraction):
    """Whatever the hashes say, neither side stays empty."""
    training, held_out = split(["first", "second"], held_out_fraction=fraction)
    assert (len(training), len(held_out)) == (1, 1)


def test_copies_stand_on_one_side():
    """Equal documents never leak from training into the held-out part."""
    training, held_out = split(["same", "same", "other"], held_out_fraction=0.5)
    assert not set(training) & set(held_out)
    assert len(training) + len(held_out) == 3


def test_package_is_read_not_imported():
    """A package's sources are found without running it."""
    documents = read_documents(
        client(PackageData(kind="package", name="pulp")), render_chat=no_chat
    )
    assert len(documents) > 10
    assert any("class LpProblem" in document for document in documents)


def test_jsonl_holds_texts_and_chats(tmp_path):
    """Both kinds of line may stand in one file; blank lines and empty texts are passed over."""
    config = jsonl(
        tmp_path,
        json.dumps({"text": "plain"}),
        "",
        json.dumps({"text": "  "}),
        json.dumps({"messages": [{"role": "user", "content": "hi"}]}),
    )
    documents = read_documents(config, render_chat=lambda messages: messages[0]["content"])
    assert documents == ["plain", "hi"]


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("{", "texts.jsonl:1: malformed JSON"),
        ("[]", "texts.jsonl:1: holds neither"),
        ('{"text": 3}', "holds neither"),
        ('{"text": "\\ud800"}', "is no text"),
        ("[" * 100_000, "malformed JSON"),
        ('{"messages": []}', "holds neither"),
        ('{"text": "a", "messages": [{}]}', "holds neither"),
        ('{"messages": [{"role": "user"}]}', "no chat template"),
    ],
)
def test_a_bad_line_is_named(tmp_path, row, problem):
    """The message names the client, the file and the line."""
    with pytest.raises(ClientDataError, match=problem) as caught:
        read_documents(jsonl(tmp_path, row), render_chat=no_chat)
    assert caught.value.client == "c"


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([], "holds no text"),
        (['{"text": "x"}'], "a single document"),
        (['{"text":"x"}'] * 2, "a s"),
    ],
)
def test_too_little_text_is_refused(tmp_path, rows, problem):
    """A client needs two different documents: one to train on, one to judge by."""
    with pytest.raises(ClientDataError, match=problem):
        read_client(jsonl(tmp_path, *rows), held_out_fraction=0.5, render_chat=no_chat)


def test_unknown_package_is_refused():
    """A package that is not installed is named."""
    missing = client(PackageData(kind="package", name="no_such_package_here"))
    with pytest.raises(ClientDataError, match="no_such_package_here"):
        read_documents(missing, render_chat=no_chat)


def test_a_module_without_an_origin_is_refused(monkeypatch):
    """What only this process has, as `__main__` under the console command, is no package."""
    monkeypatch.setitem(sys.modules, "made_here", ModuleType("made_here"))
    with pytest.raises(ClientDataError, match="no package 'made_here' is installed"):
        read_documents(client(PackageData(kind="package", name="made_here")), render_chat=no_chat)


def test_built_in_module_has_no_text():
    """A package without Python sources gives no documents."""
    assert (
        read_documents(client(PackageData(kind="package", name="sys")), render_chat=no_chat) == []
    )
