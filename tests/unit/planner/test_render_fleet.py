"""A plan as renderers see it: names, and arguments that engines are given."""

import re

import pytest
from fleet_plans import plan_content, small_plan

from planner.errors import RenderError
from planner.render.fleet import dns_label, read_fleet
from planner.render.options import RenderOptions


def test_names_without_a_latin_letter_are_labels_too() -> None:
    """Their labels are digests: letters, unique, the same each time."""
    labels = [dns_label(text) for text in ("模型", "模", "/", "7")]
    assert len(set(labels)) == 4
    assert all(re.fullmatch(r"m-[0-9a-f]+", label) for label in labels)
    assert dns_label("模型") == labels[0]
    taken = dns_label("模型", taken=labels)
    assert taken not in labels


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--max-num-seqs=9"], "repeat --max-num-seqs, planned as 256"),
        (["--max_num_seqs=9"], "repeat --max-num-seqs, planned as 256"),
        (["-tp", "4"], "repeat --tensor-parallel-size, planned as 1"),
        (["-pp2"], "repeat --pipeline-parallel-size, planned as 1"),
        (["-q=awq"], "repeat --quantization, planned as fp8"),
    ],
)
def test_no_spelling_overrides_what_is_planned(arguments: list[str], words: str) -> None:
    """Long, short, with underscores, with the value attached: a planned flag is refused by name."""
    rows = plan_content()["replicas"]
    rows[0] |= {"weight_dtype": "fp8", "engine_arguments": arguments}
    with pytest.raises(RenderError, match=words):
        read_fleet(small_plan(replicas=rows), RenderOptions())


def test_other_arguments_pass_as_they_are() -> None:
    """Values that look like planned flags, and flags of other things, are the user's own."""
    rows = plan_content()["replicas"]
    own = ["--speculative-config", "tp", "-O3", "--max-loras=4"]
    rows[0]["engine_arguments"] = own
    pool = read_fleet(small_plan(replicas=rows), RenderOptions()).pools[0]
    assert list(pool.arguments[-len(own) :]) == own
