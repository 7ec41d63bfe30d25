"""Which models may answer in another one's place."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from router.config import RouterConfig
from router.fallbacks import chain, find_cycle

NAMES = "abcde"
GRAPHS = st.dictionaries(
    st.sampled_from(NAMES), st.lists(st.sampled_from(NAMES), unique=True, max_size=4), max_size=5
)


def reachable(model: str, graph: dict[str, list[str]]) -> set[str]:
    """Return what can be reached from `model` by one step or more."""
    found: set[str] = set()
    edge = {model}
    while edge:
        edge = {name for each in edge for name in graph.get(each, ())} - found
        found |= edge
    return found


@given(GRAPHS)
def test_a_circle_is_found_where_there_is_one(graph: dict[str, list[str]]) -> None:
    """A circle is told exactly where some model reaches itself, and it is one."""
    cycle = find_cycle(graph)
    assert (cycle is not None) == any(name in reachable(name, graph) for name in graph)
    if cycle is not None:
        assert cycle[0] == cycle[-1]
        assert all(to in graph[model] for model, to in pairwise(cycle))


@given(GRAPHS)
def test_the_chain_is_what_can_be_reached(graph: dict[str, list[str]]) -> None:
    """Without a circle the chain holds each reachable model once, the nearest first."""
    if find_cycle(graph) is not None:
        return
    for name in NAMES:
        found = chain(name, graph)
        assert set(found) == reachable(name, graph)
        assert len(found) == len(set(found))
        assert found[:1] == tuple(graph.get(name, ()))[:1]


def config(**fallbacks: list[str]) -> RouterConfig:
    """Return a configuration of one replica a model."""
    models = [
        {"name": name, "replicas": [{"url": f"http://{name}"}], "fallbacks": names}
        for name, names in fallbacks.items()
    ]
    return RouterConfig.model_validate({"models": models})


def test_own_fallbacks_come_behind_each_model() -> None:
    """The configuration gives whole chains."""
    assert config(a=["b", "d"], b=["c"], c=[], d=[]).fallback_chains == {
        "a": ("b", "c", "d"),
        "b": ("c",),
    }


@pytest.mark.parametrize(
    ("fallbacks", "problem"),
    [
        ({"a": ["b"], "b": ["a"]}, "a → b → a; cut it"),
        ({"a": ["a"]}, "a → a; cut it"),
        ({"a": ["x"]}, "models.0.fallbacks.0: 'x' is no model of this file; name one of: a"),
        ({"a": ["b", "b"], "b": []}, "models.0.fallbacks.1: 'b' appears twice"),
    ],
)
def test_bad_fallbacks_are_refused(fallbacks: dict[str, list[str]], problem: str) -> None:
    """A circle, an unknown name and a repetition are told by place."""
    with pytest.raises(ValidationError) as refusal:
        config(**fallbacks)
    assert problem in str(refusal.value)
