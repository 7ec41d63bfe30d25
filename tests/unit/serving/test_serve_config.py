import pytest
import typer
from pydantic import ValidationError

from serving.cli import _draft_tokens, _layer_count, _tree_shape
from serving.config import MOST_DRAFT_NODES, ServeConfig
from serving.engine.spans import MOST_TREE_ROWS
from serving.words import validated


def config(**fields) -> ServeConfig:
    return ServeConfig(model="m", served_model_name="m", **fields)


def test_what_drafts_follows_from_whether_there_is_a_draft():
    """A draft model drafts where it is named; naming the drafter overrules."""
    assert config().drafter == "none"
    assert config(draft="d").drafter == "model"
    assert config(draft="d", drafter="none").num_draft_nodes == 0
    assert config(drafter="ngram", draft_tokens=7).num_draft_nodes == 7


def test_the_number_of_drafts_is_planned_unless_it_is_set():
    """Auto goes up to 8 ahead; a number stays that number."""
    assert config(draft="d").draft_tokens == "auto"
    assert config(draft="d").num_draft_nodes == config(draft="d").most_draft_depth == 8
    assert config(draft="d", draft_tokens=3).num_draft_nodes == 3
    for wrong in (0, 65, "many"):
        with pytest.raises(ValidationError, match="draft_tokens"):
            config(draft="d", draft_tokens=wrong)


def test_draft_tokens_are_read_from_a_word():
    """A number or auto, and anything else is refused with what to write."""
    assert _draft_tokens("auto") == "auto"
    assert _draft_tokens("6") == 6
    for wrong in ("-1", "0", "99", "many"):
        with pytest.raises(typer.BadParameter, match=f"'{wrong}' is no number.*1 to 64, or auto"):
            _draft_tokens(wrong)


def test_options_that_do_not_go_together_are_named_without_a_path():
    """The line begins with what is wrong, not with a place in a document."""
    given = {"model": "m", "served_model_name": "m", "draft": "d", "drafter": "ngram"}
    with pytest.raises(typer.BadParameter, match=r"^drafter ngram does not use draft d; drop one"):
        validated(ServeConfig, given)


def test_a_tree_verifies_its_nodes_and_not_its_depth():
    """The target's rows of a round are the nodes, whatever the depth."""
    shaped = config(draft="d", draft_tokens=6, draft_tree={"beam_width": 4, "num_nodes": 16})
    assert shaped.num_draft_nodes == 16


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"drafter": "model"}, "drafter model needs a draft"),
        ({"drafter": "ngram", "draft": "d"}, "drafter ngram does not use draft d"),
        (
            {"drafter": "ngram", "draft_tree": {"beam_width": 2, "num_nodes": 4}},
            "draft_tree is for drafter model, not ngram",
        ),
        (
            {"draft": "d", "draft_tokens": 10, "draft_tree": {"beam_width": 8, "num_nodes": 16}},
            "makes 72 rows of the draft, above 64",
        ),
        ({"draft": "d", "draft_tree": {"beam_width": 2, "num_nodes": 64}}, "less than or equal"),
        (
            {"target_gpu_layers": "auto", "target_device": "cuda"},
            "target_gpu_layers auto splits a target on a CPU, not on target_device cuda",
        ),
        ({"target_gpu_layers": -1}, "greater than or equal to 0"),
        ({"target_gpu_layers": "some"}, "auto"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(fields, message):
    """One line says which two, and what to drop."""
    with pytest.raises(ValidationError, match=message):
        config(**fields)


def test_a_tree_with_its_root_fills_what_attention_takes():
    """The bound of the configuration, which imports no torch, is attention's."""
    assert MOST_DRAFT_NODES + 1 == MOST_TREE_ROWS


def test_a_layer_count_is_a_number_or_auto():
    """Anything else is refused, with what to write."""
    assert _layer_count("12") == 12
    assert _layer_count("auto") == "auto"
    for word in ("", "-1", "1.5", "all"):
        with pytest.raises(typer.BadParameter, match="write a number or auto"):
            _layer_count(word)


def test_a_tree_shape_is_read_from_one_word():
    """BEAMxNODES, and anything else is refused with an example."""
    assert _tree_shape("4x16") == {"beam_width": 4, "num_nodes": 16}
    assert _tree_shape(None) is None
    for word in ("4", "x", "4x", "x4", "4x-1", "4x16x2", "4*16"):
        with pytest.raises(typer.BadParameter, match="write for example 4x16"):
            _tree_shape(word)
