"""Models and adapters of a command line, checked before anything is loaded."""

import json

import pytest

from serving.adapter_folder import check_adapter
from serving.errors import AdapterError, ModelError
from serving.model_words import check_models


def folder_of(path, content):
    path.mkdir()
    (path / "config.json").write_text(content)
    return str(path)


def test_folders_of_models_and_ids_of_a_hub_pass(tmp_path, tiny_family):
    """An id is looked up when it loads; a draft may be a head."""
    check_models(str(tiny_family / "target"), str(tiny_family / "head"))
    check_models("Qwen/Qwen2.5-7B-Instruct", "gpt2")


def test_a_draft_head_is_no_model_to_serve(tiny_family):
    """The line says what it is and where it belongs."""
    with pytest.raises(ModelError, match=r"is a draft head .* give it as --draft"):
        check_models(str(tiny_family / "head"), None)


@pytest.mark.parametrize("word", ["./nowhere", "/nowhere", "a/b/c", "nowhere/"])
def test_a_path_that_is_not_there_is_named_with_its_option(word):
    """What can be no id of a hub is a path."""
    with pytest.raises(ModelError, match=f"^--draft '{word}': no such model folder"):
        check_models("some/model", word)


def test_a_word_that_no_disk_looks_up_is_one_short_line():
    """A name longer than names may be is no traceback."""
    with pytest.raises(ModelError, match=r"^MODEL 'xxx.*cannot be looked up") as caught:
        check_models("x" * 5000, None)
    assert len(str(caught.value)) < 200


def test_a_folder_without_a_sound_config_is_one_line(tmp_path):
    """Missing and broken files both are."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"^MODEL '.*empty': holds no config\.json"):
        check_models(str(tmp_path / "empty"), None)
    broken = folder_of(tmp_path / "broken", "{")
    with pytest.raises(ModelError, match=r"config\.json cannot be read \(Expecting") as caught:
        check_models(broken, None)
    assert "\n" not in str(caught.value)
    check_models(folder_of(tmp_path / "list", json.dumps([])), None)


def test_a_folder_that_is_no_adapter_is_named(tmp_path):
    """Both of PEFT's files must be there, and never a pickle."""
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "r": 4}')
    (tmp_path / "adapter_model.bin").write_text("")
    with pytest.raises(AdapterError, match=r"adapter_model\.safetensors: no such file"):
        check_adapter(tmp_path)
