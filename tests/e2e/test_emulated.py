"""The load generator measures an emulated replica as it would measure hardware."""

import httpx
import pytest

import motley
from planner.profiling.profile import read_profile
from planner.speed.step_times import StepBatch
from serving.emulated.config import EmulatedConfig
from serving.emulated.hardware import find_replica

STEP_TOLERANCE = 0.25
"""Of a median time between tokens, on a busy machine."""
MOST_OVERHEAD_SECONDS = 0.1
"""By which the first token comes later than modelled: HTTP, the event loops, the load generator."""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_profile_of_an_emulated_replica_has_the_modelled_times(start, tmp_path, monkeypatch):
    """Time between tokens is the step model's within a quarter, to the first one never less."""
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    words = ["serve", "llama-3.1-8b", "--engine", "emulated", "--hardware", "a100", "--port", "0"]
    _, url = start("emulated", *words)
    said = httpx.get(f"{url}/version").json()
    assert (said["engine"], said["emulated"]["coefficients"]) == ("emulated", "vllm")

    target = tmp_path / "profile.json"
    profile_words = ["plan", "profile", url, "--model", "llama-3.1-8b", "--gpu", "A100-80GB"]
    profile_words += ["--simulated", "--input-tokens", "256,2048", "--output-tokens", "16,64"]
    profile_words += ["--rates", "1,2", "--run-seconds", "4", "--max-sequences", "4"]
    assert motley.main([*profile_words, "--output", str(target)]) == 0

    profile = read_profile(target)
    times = find_replica(
        EmulatedConfig(model="llama-3.1-8b", hardware="a100", served_model_name="m")
    ).speed.step_times
    for each in profile.decode_batches:
        modelled = times.step_seconds(
            StepBatch(0, 0.0, each.sequences, each.sequences * each.context_tokens)
        )
        assert each.step_seconds == pytest.approx(modelled, rel=STEP_TOLERANCE)
    for lone in profile.lone_prompts:
        tokens = lone.input_tokens
        modelled = times.step_seconds(StepBatch(tokens, tokens * (tokens + 1) / 2, 0, 0))
        assert modelled < lone.ttft_seconds < modelled + MOST_OVERHEAD_SECONDS
