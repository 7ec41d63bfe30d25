"""Documents as sequences: which are admitted, which are held out, who comes when."""

import json

import numpy as np
import pytest
from local_job_files import local_job_content

from finetune.errors import LocalRunError
from finetune.local_runs.local_job import LocalJob
from finetune.local_runs.local_text import BatchOrder, read_text


def job_of(path, **changes):
    """Return a job on a file of documents."""
    return LocalJob.model_validate(local_job_content("m", path, **changes))


def text_of(tmp_path, documents, **changes):
    """Return the sequences of documents of one-letter tokens."""
    path = tmp_path / "text.jsonl"
    path.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))
    job = job_of(path, **changes)
    return read_text(job, encode=lambda text: list(map(ord, text)), render_chat=str)


def documents_of(lengths):
    """Return different documents of these lengths."""
    return [chr(97 + number) * length for number, length in enumerate(lengths)]


def test_empty_and_long_documents_are_left_out_and_counted(tmp_path):
    """Blank documents and those of one token hold nothing to predict; long ones are dropped."""
    documents = [*documents_of([5, 6, 7, 8, 9, 10]), "  ", "x", "y" * 20, "z" * 21]
    text = text_of(tmp_path, documents, max_tokens=12)
    assert (text.num_dropped_empty, text.num_dropped_long, text.num_cut) == (2, 2, 0)
    lengths = [len(row) for row in (*text.training, *text.held_out)]
    assert sorted(lengths) == [5, 6, 7, 8, 9, 10]


def test_long_documents_may_be_cut(tmp_path):
    """What stands behind the longest sequence is lost, and counted."""
    text = text_of(tmp_path, documents_of([30] * 6), max_tokens=12, long_documents="cut")
    assert text.num_cut == 6
    assert {len(row) for row in (*text.training, *text.held_out)} == {12}


def test_no_document_stands_on_both_sides(tmp_path):
    """Equal documents are trained on or judged by, not both."""
    text = text_of(tmp_path, documents_of([5] * 12) * 2)
    training = {tuple(row) for row in text.training}
    assert training.isdisjoint({tuple(row) for row in text.held_out})


def test_held_out_text_is_bounded_by_whole_documents(tmp_path):
    """As many as fit, and one where none does."""
    documents = documents_of([10] * 20)
    few = text_of(tmp_path, documents, held_out_fraction=0.5, held_out_tokens=25)
    assert [len(row) for row in few.held_out] == [10, 10]
    one = text_of(tmp_path, documents, held_out_fraction=0.5, held_out_tokens=2)
    assert [len(row) for row in one.held_out] == [10]


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        (["", " "], "none of 2 documents is left as training text (2 empty, 0 longer"),
        (["x" * 200, "y" * 200], "raise max_tokens or take long_documents: cut"),
        (["alone"], "none of 1 documents is left as training text"),
    ],
)
def test_too_little_text_is_told(tmp_path, documents, message):
    """The line says how many were left out and why."""
    with pytest.raises(LocalRunError, match=r"^data: ") as caught:
        text_of(tmp_path, documents)
    assert message in str(caught.value)


def test_every_epoch_sees_every_document_once():
    """The row of documents is one shuffle after the other, cut into steps."""
    order = BatchOrder(job_of("t", steps=None, epochs=3, batch_size=4), num_documents=10)
    assert order.num_steps == 8
    steps = [order.positions(step) for step in range(order.num_steps)]
    assert [len(step) for step in steps] == [4] * 7 + [2]
    row = [position for step in steps for position in step]
    epochs = [row[start : start + 10] for start in (0, 10, 20)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_a_step_depends_on_its_number_alone():
    """A resumed run asks for later steps first and gets what an unbroken one does."""
    job = job_of("t", steps=9)
    forward = BatchOrder(job, num_documents=7)
    backward = BatchOrder(job, num_documents=7)
    wanted = [forward.positions(step) for step in range(9)]
    assert [backward.positions(step) for step in reversed(range(9))] == wanted[::-1]
    other = BatchOrder(job_of("t", steps=9, seed=1), num_documents=7)
    assert [other.positions(step) for step in range(9)] != wanted


def test_the_digest_tells_texts_apart(tmp_path):
    """Another document, or another border between two, is another text."""
    one = text_of(tmp_path, documents_of([5, 6, 7]))
    again = text_of(tmp_path, documents_of([5, 6, 7]))
    assert one.sha256 == again.sha256
    assert one.sha256 != text_of(tmp_path, documents_of([5, 6, 8])).sha256
    assert all(row.dtype == np.int64 for row in one.training)
