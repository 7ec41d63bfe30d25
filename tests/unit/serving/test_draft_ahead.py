"""Where drafts are made ahead of the verification, and what the log says."""

import logging

import pytest
from pydantic import ValidationError
from toy_head import TableHead
from toy_model import TableModel, random_table

from serving.config import ServeConfig
from serving.drafting import draft_ahead
from serving.engine.head_drafter import HeadChainDrafter
from serving.engine.model_drafter import ChainDrafter
from serving.engine.ngram_drafter import NgramDrafter
from serving.engine.pre_drafting import PreDrafter

TABLE = random_table(6, seed=1)


def config(**fields):
    return ServeConfig(model="m", served_model_name="m", **({"draft": "d"} | fields))


def made(caplog, what, device, **fields):
    with caplog.at_level(logging.INFO):
        found = draft_ahead(config(**fields), what, device)
    if isinstance(found, PreDrafter):
        found.close()
    return isinstance(found, PreDrafter), caplog.text


def test_shared_cores_turn_it_off_with_a_line(caplog):
    """Draft and target on the processor: off, and the log says why."""
    is_on, log = made(caplog, ChainDrafter(TableModel(TABLE)), "cpu")
    assert not is_on
    assert "pre-drafting is off reason=draft and target share the processor's cores" in log


def test_shared_cores_are_allowed_with_a_warning(caplog):
    """Who asks for it gets it, warned; a head as well as a model."""
    for drafter in (
        ChainDrafter(TableModel(TABLE)),
        HeadChainDrafter(TableHead(TABLE), most_rows=9),
    ):
        is_on, log = made(caplog, drafter, "cpu", pre_draft="on")
        assert is_on
        assert "expect a loss" in log


@pytest.mark.parametrize(
    ("fields", "is_expected"),
    [
        ({}, True),
        ({"pre_draft": "off"}, False),
        ({"target_device": "meta:1"}, True),
        ({"target_device": "meta:0"}, False),
        ({"target_gpu_layers": 2, "target_gpu_device": "meta"}, False),
    ],
    ids=["apart", "off", "another device", "one device", "layers of the target"],
)
def test_a_device_of_its_own_turns_it_on(caplog, fields, is_expected):
    """Unless the target, or its first layers, are there too."""
    is_on, _ = made(caplog, ChainDrafter(TableModel(TABLE)), "meta:0", **fields)
    assert is_on == is_expected


def test_what_cannot_draft_ahead_says_so(caplog):
    """Look-ups stay as they are, with a line; without a drafter there is nothing to say."""
    is_on, log = made(caplog, NgramDrafter(), "cpu", drafter="ngram", draft=None)
    assert not is_on
    assert "only chains" in log
    assert draft_ahead(config(draft=None), None, "cpu") is None


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"draft_tree": {"beam_width": 2, "num_nodes": 4}}, "trees"),
        ({"drafter": "ngram", "draft": None}, "ngram"),
        ({"draft": None}, "none"),
    ],
)
def test_asking_for_what_is_not_drafted_ahead_is_refused(fields, what):
    """Trees and look-ups: one line that says what to drop."""
    with pytest.raises(ValidationError, match=f"pre_draft on is for chains .* not for {what}"):
        config(pre_draft="on", **fields)
