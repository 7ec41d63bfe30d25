"""Finding a model's sizes without a network."""

import json

import pytest

from planner.errors import DocumentError, UnknownNameError
from planner.hardware.catalogue import built_in_catalogue
from planner.hardware.find_model import find_model

CATALOGUE = built_in_catalogue()


@pytest.fixture
def hub_cache(tmp_path):
    """Return a cache that holds one model with four layers under a built-in model's name."""
    (entry,) = (m for m in CATALOGUE.models if m.name == "Qwen/Qwen2.5-7B-Instruct")
    folder = tmp_path / "hub" / "models--Qwen--Qwen2.5-7B-Instruct"
    snapshot = folder / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps({**entry.config, "num_hidden_layers": 4}))
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("0123abcd")
    return tmp_path / "hub"


def test_the_built_in_list_serves_without_a_cache(tmp_path):
    """A listed hub id needs nothing on disk, in letters of either case."""
    spec = find_model("qwen/qwen2.5-7b-instruct", CATALOGUE, hub_cache=tmp_path)
    assert (spec.name, spec.num_layers) == ("Qwen/Qwen2.5-7B-Instruct", 28)


def test_the_cache_comes_before_the_list(hub_cache):
    """What was downloaded is read, not our copy of it."""
    assert find_model("Qwen/Qwen2.5-7B-Instruct", CATALOGUE, hub_cache=hub_cache).num_layers == 4


def test_a_cache_without_main_is_read(hub_cache):
    """A download of a named revision leaves a snapshot only."""
    (hub_cache / "models--Qwen--Qwen2.5-7B-Instruct" / "refs" / "main").unlink()
    assert find_model("Qwen/Qwen2.5-7B-Instruct", CATALOGUE, hub_cache=hub_cache).num_layers == 4


def test_the_cache_is_where_its_tools_keep_it(hub_cache, monkeypatch):
    """The hub's own variable says where the cache lies."""
    monkeypatch.setenv("HF_HUB_CACHE", str(hub_cache))
    assert find_model("Qwen/Qwen2.5-7B-Instruct", CATALOGUE).num_layers == 4


def test_a_folder_is_read(tiny_family, tmp_path):
    """A folder's config.json gives the sizes and the folder the name."""
    spec = find_model(str(tiny_family / "target"), CATALOGUE, hub_cache=tmp_path)
    assert (spec.name, spec.num_layers, spec.num_key_value_heads) == ("target", 12, 2)


def test_an_unknown_model_lists_near_names(tmp_path):
    """The nearest built-in models and the ways out are named."""
    with pytest.raises(UnknownNameError, match=r"near: .*Llama-3.1-8B-Instruct.*; correct it"):
        find_model("llama-3.1-8b", CATALOGUE, hub_cache=tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), ("{", "cannot be read"), ("[]", "holds no mapping")],
)
def test_broken_folders_are_one_line(tmp_path, content, message):
    """A path without a readable config.json is an error that names the file."""
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(DocumentError, match=message):
        find_model(str(tmp_path), CATALOGUE, hub_cache=tmp_path)
