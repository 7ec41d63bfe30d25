"""The engine that a configuration asks for has the drafter that it names."""

import pytest

from serving.config import ServeConfig
from serving.engine.sampling import SamplingParams
from serving.engine.sequence import GenerationRequest
from serving.errors import ModelError
from serving.server import build_engine

DRAFTERS = [
    {"drafter": "none"},
    {"drafter": "ngram", "draft_tokens": 3},
    {"draft_tokens": 3},
    {"draft_tokens": 3, "draft_tree": {"beam_width": 3, "num_nodes": 9}},
    {"draft": "head", "draft_tokens": 3},
    {"draft": "head", "draft_tokens": 3, "draft_tree": {"beam_width": 3, "num_nodes": 9}},
    {"draft_tokens": 3, "pre_draft": "on"},
    {"draft": "head", "draft_tokens": 3, "pre_draft": "on"},
    {},
]
"""The last one's size is left to the calibration, which may find that drafting does not pay here."""


def test_every_drafter_of_the_command_line_gives_the_plain_text(tiny_family):
    """From configuration to text: the same greedy answer, with drafts where their size is set."""
    texts, drafted = [], []
    for fields in DRAFTERS:
        folder = None if fields.get("drafter") == "ngram" else fields.get("draft", "draft")
        config = ServeConfig(
            model=str(tiny_family / "target"),
            served_model_name="tiny",
            target_quantization="int8",
            **(fields | {"draft": folder and str(tiny_family / folder)}),
        )
        engine, tokenizer = build_engine(config)
        prompt = tuple(tokenizer.encode("def parse(text):\n    return text\n\ndef parse("))
        params = SamplingParams(max_tokens=40, temperature=0, ignore_eos=True)
        engine.add(GenerationRequest("a", prompt, params, seed=0))
        text: tuple[int, ...] = ()
        while engine.has_work:
            for output in engine.step():
                text += output.tokens
        engine.close()
        if config.pre_draft == "on":
            assert engine.pre_drafts.used > 0
            assert engine.pre_drafts.failures == 0
        texts.append(text)
        drafted.append(engine.counters.draft_tokens > 0)
    assert len(set(texts)) == 1
    assert drafted[:-1] == [False, *[True] * 7]


def test_a_head_made_for_another_target_is_one_line(tiny_family):
    """The start ends before anything is served, with what to do."""
    config = ServeConfig(
        model=str(tiny_family / "draft"),
        draft=str(tiny_family / "head"),
        served_model_name="tiny",
    )
    with pytest.raises(ModelError, match=r"was trained for a target with weights .* train-draft"):
        build_engine(config)


def test_keys_and_values_beyond_the_machines_memory_are_refused(tiny_family):
    """What would end the engine at its first request ends the start, with both numbers."""
    config = ServeConfig(
        model=str(tiny_family / "target"), served_model_name="tiny", kv_bytes=1 << 60
    )
    with pytest.raises(ModelError, match=r"1073741824\.0 GiB is more than this machine has \("):
        build_engine(config)
