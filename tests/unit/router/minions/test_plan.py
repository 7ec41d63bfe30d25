"""The remote's task list."""

import json

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.minions.chunks import Document, cut
from router.minions.plan import (
    Bounds,
    PlanProblemError,
    TooManyJobsError,
    choose_chunks,
    read_plan,
)
from router.minions.plan_schema import plan_schema
from router.minions.retrieval import Retrieval

CHUNKS = cut([Document("oak elm ash. " * 30)], max_bytes=40)
RETRIEVAL = Retrieval([chunk.text for chunk in CHUNKS])
WIDE = Bounds(max_tasks=100, max_jobs=10_000, num_earlier_tasks=3)
TASK: dict[str, object] = {"task": "Find it", "advice": "", "chunks": {"kind": "all"}}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
CHOICES = st.one_of(
    st.just({"kind": "all"}),
    st.builds(
        lambda first, more: {"kind": "range", "first": first, "last": first + more},
        st.integers(1, 3),
        st.integers(0, 3),
    ),
    st.builds(lambda k: {"kind": "retrieve", "query": "oak", "top_k": k}, st.integers(1, 20)),
)
TASKS = st.fixed_dictionaries(
    {"task": st.text(min_size=1, max_size=20), "advice": st.text(max_size=20), "chunks": CHOICES},
    optional={"earlier": st.lists(st.integers(1, 3), max_size=3)},
)
PLANS = st.fixed_dictionaries(
    {
        "tasks": st.lists(TASKS, min_size=1, max_size=4),
        "fold": st.sampled_from(["by_task", "by_chunk"]),
    }
)


@given(content=PLANS)
def test_every_plan_of_the_shape_is_read(content) -> None:
    """What the schema allows is read as it stands, with prose and a fence around it."""
    jsonschema.validate(content, plan_schema(num_chunks=20, num_earlier_tasks=3))
    plan = read_plan(f"Here it is:\n```json\n{json.dumps(content)}\n```\nGood luck")
    assert [task.task for task in plan.tasks] == [task["task"] for task in content["tasks"]]
    chosen = choose_chunks(plan, CHUNKS, RETRIEVAL, WIDE)
    for task, chunks in zip(content["tasks"], chosen, strict=True):
        choice = task["chunks"]
        if choice["kind"] == "all":
            assert chunks == CHUNKS
        elif choice["kind"] == "range":
            numbers = [chunk.number for chunk in chunks]
            assert numbers == list(range(choice["first"], choice["last"] + 1))
        else:
            assert len(chunks) == min(choice["top_k"], len(CHUNKS))


@given(content=PLANS, key=st.text(), value=JSON, place=st.sampled_from(["plan", "task", "chunks"]))
def test_an_unknown_key_is_refused_wherever_it_stands(content, key, value, place) -> None:
    """Nothing but the named keys can be said."""
    content = json.loads(json.dumps(content))  # generated values may be shared
    task = content["tasks"][0]
    where = {"plan": content, "task": task, "chunks": task["chunks"]}[place]
    if key in {"tasks", "fold", "task", "advice", "chunks", "earlier", "kind"} | set(where):
        return
    where[key] = value
    with pytest.raises(PlanProblemError):
        read_plan(json.dumps(content))


@given(text=st.text() | JSON.map(json.dumps))
def test_any_text_is_a_plan_or_a_problem_in_words(text) -> None:
    """Whatever the remote writes, reading it ends in one of the two."""
    try:
        read_plan(text)
    except PlanProblemError as error:
        assert 0 < len(str(error)) < 1100  # noqa: PT017


@given(content=PLANS, max_jobs=st.integers(1, 30), max_tasks=st.integers(1, 4))
def test_more_jobs_than_may_be_are_never_let_through(content, max_jobs, max_tasks) -> None:
    """Tasks times chunks are counted before any runs."""
    plan = read_plan(json.dumps(content))
    num_jobs = sum(map(len, choose_chunks(plan, CHUNKS, RETRIEVAL, WIDE)))
    bounds = Bounds(max_tasks, max_jobs, num_earlier_tasks=3)
    if num_jobs > max_jobs or len(plan.tasks) > max_tasks:
        with pytest.raises(TooManyJobsError):
            choose_chunks(plan, CHUNKS, RETRIEVAL, bounds)
    else:
        assert sum(map(len, choose_chunks(plan, CHUNKS, RETRIEVAL, bounds))) == num_jobs


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"chunks": {"kind": "range", "first": 1, "last": 999}}, "they go from 1 to"),
        ({"chunks": {"kind": "range", "first": 2, "last": 1}}, "no range"),
        ({"earlier": [4]}, "4 is no earlier task"),
    ],
)
def test_what_does_not_exist_is_told(change, told) -> None:
    """The message names the value and what there is."""
    plan = read_plan(json.dumps({"tasks": [TASK | change]}))
    with pytest.raises(PlanProblemError, match=told):
        choose_chunks(plan, CHUNKS, RETRIEVAL, WIDE)


@pytest.mark.parametrize("value", ["1", 1.5, True, None, 0, -1])
def test_numbers_are_whole_and_from_one(value) -> None:
    """No text, no fraction and no truth value passes for a number."""
    chunks = {"kind": "retrieve", "query": "x", "top_k": value}
    with pytest.raises(PlanProblemError, match="top_k"):
        read_plan(json.dumps({"tasks": [TASK | {"chunks": chunks}]}))
