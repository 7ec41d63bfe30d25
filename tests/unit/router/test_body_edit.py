"""Edits of a JSON body."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.body_edit import REMOVED, Edits, edited

LEAVES = st.none() | st.booleans() | st.integers() | st.text(max_size=8)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=12,
)
OBJECTS = st.dictionaries(st.text(max_size=4), VALUES, max_size=5)
INDENTS = st.sampled_from([None, 1, 4])


def applied(value: Any, edits: Edits) -> Any:
    """Return `value` with `edits` made on the parsed form: the oracle."""
    members = enumerate(value) if isinstance(value, list) else value.items()
    changed = {}
    for key, member in members:
        change = edits.get(key, member)
        if isinstance(change, dict) and key in edits:
            changed[key] = applied(member, change) if isinstance(member, dict | list) else member
        elif not (key in edits and change is REMOVED):
            changed[key] = change
    return list(changed.values()) if isinstance(value, list) else changed


@st.composite
def edits_of(draw: st.DrawFn, value: Any) -> Edits:
    """Return edits of some of the members of `value`, at any depth."""
    members = dict(enumerate(value)) if isinstance(value, list) else value
    edits: dict[str | int, Any] = {}
    for key, member in members.items():
        kinds = ["keep", "replace"] + (["remove"] if isinstance(value, dict) else [])
        kinds += ["inside"] if isinstance(member, dict | list) else []
        kind = draw(st.sampled_from(kinds))
        if kind == "replace":
            edits[key] = draw(st.text(max_size=8))
        elif kind == "remove":
            edits[key] = REMOVED
        elif kind == "inside":
            edits[key] = draw(edits_of(member))
    return edits


@given(st.data(), OBJECTS, INDENTS, st.booleans())
def test_edits_of_the_text_equal_edits_of_the_value(
    data: st.DataObject, value: dict[str, Any], indent: int | None, ascii_only: bool
) -> None:
    """Whatever is edited, the new text parses to the value edited in memory."""
    edits = data.draw(edits_of(value))
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    assert json.loads(edited(text, edits)) == applied(value, edits)


@given(OBJECTS, INDENTS)
def test_without_edits_the_text_is_the_same(value: dict[str, Any], indent: int | None) -> None:
    """No edit, and an edit of what is absent, change no byte."""
    text = json.dumps(value, indent=indent)
    assert edited(text, {}) == text
    assert edited(text, {"absent": {"too": REMOVED}, "neither": REMOVED, "nor": "x"}) == text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{ "model" : "auto" ,  "n":1.50 }', '{ "model" : "m" ,  "n":1.50 }'),
        ('{"motley": {"a": [1]}, "model":"auto"}', '{"model":"m"}'),
        ('{"model":"auto" , "motley": 1 }', '{"model":"m" }'),
        ('{"motley":1,"model":"auto","motley":2,"motley":3}', '{"model":"m"}'),
        (
            '{"model":"a","x":"\\u00e9 é","model":"auto"}',
            '{"model":"m","x":"\\u00e9 é","model":"m"}',
        ),
        (' {"motley":1}\n', " {}\n"),
    ],
)
def test_the_rest_keeps_its_bytes(before: str, after: str) -> None:
    """Spaces, number forms and escapes outside the edit stay; repeated keys all change."""
    assert edited(before, {"model": "m", "motley": REMOVED}) == after


def test_half_a_surrogate_pair_stays_escaped() -> None:
    """A new string that has no UTF-8 is written with escapes, and can be encoded."""
    text = edited('{"x": 1}', {"x": "\ud800é"})
    assert json.loads(text.encode()) == {"x": "\ud800é"}
