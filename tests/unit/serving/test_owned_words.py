"""Words and variables for vLLM that Motley says itself."""

import json
import logging
from pathlib import Path

import pytest
from fleet_plans import CHAT, SPOT, plan_content

import motley
from serving.errors import ModelError
from serving.vllm_engine.arguments import command, environment
from serving.vllm_engine.config import VllmConfig
from serving.vllm_engine.owned_words import OWNED, loggable


def words_with(*words, **fields):
    """Return what vLLM is started with where a user adds `words`."""
    given = {"model": "m", "served_model_name": "m", "engine_arguments": words} | fields
    config = VllmConfig(**given)
    return command(config, python=Path("python"), device="cpu", uds=Path("/tmp/s"))


@pytest.mark.parametrize("word", OWNED)
def test_a_word_that_breaks_the_supervision_is_one_line(word):
    """In each spelling that vLLM takes: with `=`, with underscores, cut short."""
    underscored = "--" + word.removeprefix("--").replace("-", "_")
    for written in ([word, "x"], [f"{word}=x"], [underscored, "x"]):
        with pytest.raises(ModelError) as caught:
            words_with("--enforce-eager", *written)
        assert f"vLLM's {word}" in str(caught.value)
        assert OWNED[word] in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="is Motley's to say"):
        words_with("--api-ke=x")


def test_words_that_only_begin_alike_pass():
    """Longer names and single dashes are vLLM's own."""
    given = ("--model-impl", "vllm", "--max-model-len=256", "--enable-lora", "-tp", "2")
    assert words_with(*given)[-len(given) :] == given


def test_a_plan_and_a_file_of_options_are_read_too(tmp_path):
    """A `--config` file of vLLM's and the words of a plan say as much as the command line."""
    file = tmp_path / "vllm.yaml"
    file.write_text("max_model_len: 256\napi_key: secret\n")
    with pytest.raises(ModelError) as caught:
        words_with("--config", str(file))
    assert str(caught.value).startswith(f"{file}: vLLM's --api-key")
    assert "secret" not in str(caught.value)
    file.write_text("max_model_len: 256\n")
    assert str(file) in words_with(f"--config={file}")[-1]

    content = plan_content()
    for row in content["replicas"]:
        row["engine_arguments"] = ["--port", "9000"]
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"plan\.json: vLLM's --port"):
        words_with(model=CHAT, plan=plan, offer=SPOT)


def test_the_command_line_says_which_option_to_use(capsys, caplog):
    """The key is neither shown nor logged."""
    assert motley.main(["serve", "m", "--engine", "vllm", "--api-key", "hidden"]) != 0
    shown = capsys.readouterr().err
    assert "--api-key-file" in shown
    assert "hidden" not in shown + caplog.text


def test_a_key_of_vllms_own_stays_out_of_its_process(caplog):
    """A line of the log says so, without the key: with one it would refuse what is passed on."""
    config = VllmConfig(model="m", served_model_name="m")
    with caplog.at_level(logging.WARNING):
        variables = environment(config, "gpu", {"VLLM_API_KEY": "hidden", "HF_TOKEN": "t"})
    assert "VLLM_API_KEY" not in variables
    assert variables["HF_TOKEN"] == "t"
    assert "VLLM_API_KEY is not passed on" in caplog.text
    assert "hidden" not in caplog.text


@pytest.mark.parametrize("flag", ["--hf-token", "--hf_token", "--hf-tok", "--hf_to"])
def test_secrets_among_the_words_are_not_logged(flag):
    """Whichever way vLLM takes them: with `=`, with underscores, cut short."""
    others = ["--dtype", "auto", "--", "x", "-h", "y"]
    shown = ["m", flag, "***", f"{flag}=***", *others]
    assert loggable(["m", flag, "hidden", f"{flag}=hidden", *others]) == shown
