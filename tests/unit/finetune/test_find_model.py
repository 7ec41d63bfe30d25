"""Finding a base model: a folder, or the hub."""

import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from finetune.base_model import find_model
from finetune.errors import BaseModelError


def refuse(name):
    """Fail as the hub does when it cannot be reached."""
    raise LocalEntryNotFoundError("Cannot find the file on disk.\nOutgoing traffic is disabled.")


def test_a_folder_is_taken_as_it_is(tmp_path):
    """A local folder needs no hub."""
    assert find_model(str(tmp_path), download=refuse) == tmp_path


def test_a_hub_id_is_fetched(tmp_path):
    """Any other name is asked of the hub."""
    asked = []
    find_model("owner/model", download=lambda name: asked.append(name) or str(tmp_path))
    assert asked == ["owner/model"]


@pytest.mark.parametrize("name", ["./model", "/nowhere/model", "a/b/c", "~/model"])
def test_a_missing_folder_is_not_asked_of_the_hub(name):
    """A name that can only be a path fails at once, without the network."""
    with pytest.raises(BaseModelError, match="no such folder"):
        find_model(name, download=lambda name: pytest.fail("asked the hub"))


def test_an_unknown_hub_id_is_one_line():
    """The hub's answer is cut to its first line."""
    with pytest.raises(BaseModelError, match=r"'owner/model' is neither .*; check the name$"):
        find_model("owner/model", download=refuse)
