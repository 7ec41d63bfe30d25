from pathlib import Path

import pytest

from serving.tiny.corpus import (
    SourceFile,
    conversations,
    read_sources,
    split,
    standard_library,
)


@pytest.fixture(scope="module")
def sources() -> list[SourceFile]:
    """Every source of one corner of the running Python, enough to hold some files out."""
    files = read_sources(standard_library())
    return [file for file in files if len(file.text) < 12_000]


def test_no_held_out_file_is_trained_on(sources: list[SourceFile]) -> None:
    """Training, held-out and dropped files are disjoint and together all files."""
    corpus = split(sources)
    groups = [corpus.training, corpus.held_out, corpus.near_duplicates]
    paths = [file.path for group in groups for file in group]
    assert len(paths) == len(set(paths)) == len(sources)
    texts = {file.text for file in corpus.training}
    assert not any(file.text in texts for file in corpus.held_out)
    assert 0.01 < len(corpus.held_out) / len(sources) < 0.1


def test_split_is_deterministic_and_keeps_files_on_their_side(sources: list[SourceFile]) -> None:
    """The split repeats, and a file's side does not depend on which other files exist."""
    whole, half = split(sources), split(sources[::2])
    assert split(sources) == whole
    assert split(sources).digest == whole.digest != half.digest
    trained = {file.path for file in whole.training}
    assert all(file.path in trained for file in half.training)


def test_near_duplicates_of_training_files_are_dropped() -> None:
    """A held-out file made of training text is neither trained on nor judged."""
    text = " ".join(f"word{number}" for number in range(100))
    files = [SourceFile(f"file{number}.py", text) for number in range(100)]
    corpus = split(files)
    assert not corpus.held_out
    assert corpus.near_duplicates
    assert corpus.training


def test_tests_and_tables_are_left_out(tmp_path: Path) -> None:
    """Test folders, machine-written tables and empty files are no text."""
    for name, text in {
        "kept.py": "x = 1\n",
        "empty.py": "\n",
        "table.py": '"""Made by gencodec."""\n',
        "test/helper.py": "x = 1\n",
        "package/tests/helper.py": "x = 1\n",
        "data.txt": "x = 1\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert [file.path for file in read_sources(tmp_path)] == ["kept.py"]


def test_chats_ask_with_the_docstring_and_answer_with_the_source() -> None:
    """A documented function becomes a question and its own text."""
    source = 'class A:\n    def f(self):\n        """Say hello.\n\n        Loudly."""\n        return 1\n'
    (chat,) = conversations([SourceFile("a.py", source + "\ndef g(): pass\n")], one_in=1)
    assert [turn["role"] for turn in chat] == ["user", "assistant"]
    assert chat[0]["content"] == "Say hello."
    assert chat[1]["content"].startswith("def f(self):\n    ")
