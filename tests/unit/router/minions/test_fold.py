"""Findings as one text."""

from hypothesis import given
from hypothesis import strategies as st

from router.minions.chunks import Chunk
from router.minions.fold import fold
from router.minions.jobs import Job, JobEnd, JobOutput
from router.minions.plan import Task
from router.minions.replies import Finding


def output(task: int, chunk: int, answer: str | None, citation: str | None = None) -> JobOutput:
    """Return what came of one job."""
    job = Job(task, Task(task=f"task {task}"), Chunk(chunk, 0, 0, "x"))
    if answer is None:
        return JobOutput(job, JobEnd.EMPTY)
    return JobOutput(job, JobEnd.FOUND, Finding(answer=answer, citation=citation))


OUTPUTS = st.lists(
    st.builds(
        output,
        st.integers(1, 4),
        st.integers(1, 9),
        st.none() | st.text(min_size=1, max_size=200),
        st.none() | st.text(max_size=100),
    ),
    max_size=30,
)


@given(outputs=OUTPUTS, order=st.sampled_from(["by_task", "by_chunk"]), most=st.integers(100, 4000))
def test_the_text_is_never_too_long(outputs, order, most) -> None:
    """However much was found, the text keeps its size."""
    assert len(fold(outputs, order, max_bytes=most).encode()) <= most


@given(outputs=OUTPUTS, order=st.sampled_from(["by_task", "by_chunk"]))
def test_no_finding_is_lost_where_there_is_room(outputs, order) -> None:
    """Each answer stands there, with its chunk or task."""
    text = fold(outputs, order, max_bytes=10**6)
    for each in outputs:
        if each.finding and each.finding.answer and each.finding.answer.strip():
            assert " ".join(each.finding.answer.split()).casefold() in text.casefold()


@given(outputs=OUTPUTS.flatmap(st.permutations))
def test_the_order_in_which_jobs_end_does_not_matter(outputs) -> None:
    """Places and groups follow tasks and chunks."""
    groups = [
        line for line in fold(outputs, "by_task", max_bytes=10**6).split("\n") if line[:4] == "Task"
    ]
    assert groups == sorted(groups)


def test_groups_and_repetitions() -> None:
    """By task or by chunk; an answer found twice stands once with both places."""
    outputs = [
        output(1, 2, "Oak", "an oak"),
        output(1, 1, "oak"),
        output(2, 1, "elm"),
        output(2, 2, None),
    ]
    assert fold(outputs, "by_task", max_bytes=1000) == (
        'Task 1: task 1\n- [c1, c2] oak | "an oak"\n\nTask 2: task 2\n- [c1] elm'
    )
    assert fold(outputs, "by_chunk", max_bytes=1000) == (
        'Part c1\n- [task 1] oak\n- [task 2] elm\n\nPart c2\n- [task 1] Oak | "an oak"'
    )


def test_what_is_left_out_is_told() -> None:
    """Where even short answers do not fit, the number of the rest is named."""
    outputs = [output(1, number, f"answer {number} " * 5) for number in range(1, 40)]
    text = fold(outputs, "by_task", max_bytes=500)
    kept = text.count("\n- ")
    assert text.endswith(f"({39 - kept} more findings left out)")
    assert kept > 0
    assert fold([], "by_task", max_bytes=500) == ""
