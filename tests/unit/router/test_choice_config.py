"""The `model_choice:` block of the router's file."""

from pathlib import Path

import pytest

from planner.documents import read_document
from planner.errors import DocumentError
from router.config import RouterConfig

MODELS = "models: [{name: m, replicas: [{url: 'http://h:1'}]}]\n"


def read(tmp_path: Path, block: str, *, models: str = MODELS) -> RouterConfig:
    """Read a file with the block."""
    path = tmp_path / "router.yaml"
    path.write_text(f"{models}model_choice: {block}\n")
    return read_document(path, RouterConfig)


def test_defaults(tmp_path: Path) -> None:
    """A pool alone is enough; nothing is logged unless asked for."""
    choice = read(tmp_path, "{pools: {auto: [m]}}").model_choice
    assert choice is not None
    assert choice.features_path is None
    assert choice.flags.in_text
    assert not choice.default_goals.weights
    logged = read(tmp_path, "{pools: {auto: [m]}, features_log: true, goals: {cheapest: null}}")
    assert logged.model_choice is not None
    assert logged.model_choice.features_path == Path("features.jsonl")
    assert dict(logged.model_choice.default_goals.weights) == {"cheapest": 0.2}


@pytest.mark.parametrize(
    ("block", "problem"),
    [
        ("{}", "neither predictor nor pools is given"),
        ("{pools: {p: []}}", r"pools\.p"),
        ("{pools: {p: [m, m]}}", r"model_choice.*pools\.p\.1: 'm' appears twice"),
        ("{pools: {p: [x]}}", r"model_choice\.pools\.p\.0: 'x' is no model of this file"),
        ("{pools: {m: [m]}}", r"model_choice\.pools\.m: is the name of a model too"),
        ("{pools: {p: [m]}, goals: {best: 1}}", "goals: 'best' names no goal"),
        ("{pools: {p: [m]}, goals: {cheapest: -1}}", r"model_choice\.goals\.cheapest"),
        ("{pools: {p: [m]}, goals: {quality: 2}}", "quality needs a number from 0 to 1"),
        ("{pools: {p: [m]}, flags: {max_weight: .nan}}", r"model_choice\.flags\.max_weight"),
        ("{pools: {p: [m]}, flags: {unknown: maybe}}", r"model_choice\.flags\.unknown"),
        ("{pools: {p: [m]}, explore_fraction: 2}", r"model_choice\.explore_fraction"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path: Path, block: str, problem: str) -> None:
    """Each names its place, the value and what to do."""
    with pytest.raises(DocumentError, match=problem) as caught:
        read(tmp_path, block)
    assert "\n" not in str(caught.value)


def test_a_model_may_not_take_the_name_of_the_pool_of_all(tmp_path: Path) -> None:
    """`auto` is a pool wherever a choice is configured."""
    models = MODELS.replace("name: m", "name: auto")
    with pytest.raises(DocumentError, match="'auto' is the name of the pool of all models"):
        read(tmp_path, "{predictor: p.npz}", models=models)


def test_facts_of_a_model(tmp_path: Path) -> None:
    """Facts stand beside the name; a size that is no number is refused by its path."""
    facts = "parameters: 8.0e9, released: 2026-05-01, is_local: true, context_tokens: 8192"
    models = MODELS.replace("name: m", f"name: m, {facts}")
    (model,) = read(tmp_path, "{pools: {p: [m]}}", models=models).models
    assert (model.parameters, model.is_local, str(model.released)) == (8e9, True, "2026-05-01")
    with pytest.raises(DocumentError, match=r"models\.0\.parameters"):
        read(tmp_path, "{pools: {p: [m]}}", models=models.replace("8.0e9", "0"))
