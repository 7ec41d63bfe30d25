"""What the engine's counters look like at `/metrics`."""

from toy_model import TableModel, random_table

from serving.engine.engine import Engine, EngineLimits
from serving.engine.sampling import SamplingParams
from serving.engine.sequence import GenerationRequest
from serving.metrics import exposition


def engine_of_two() -> Engine:
    """Return an engine that runs two requests at once, with two adapters loaded."""
    limits = EngineLimits(kv_bytes=1000, max_sequences=2, max_waiting=4)
    engine = Engine(
        TableModel(random_table(8, seed=3)),
        None,
        num_draft_tokens=1,
        limits=limits,
        eos_ids=frozenset(),
    )
    engine._adapters._loaded |= {"one": (1, object()), "two": (2, object())}
    return engine


def test_requests_are_told_by_adapter():
    """Adapters of running and of waiting requests are labels, each named once, the base none."""
    engine = engine_of_two()
    for number, name in enumerate(("one", None, "two", "two")):
        params = SamplingParams(max_tokens=9, temperature=0)
        engine.add(GenerationRequest(str(number), (1, 2), params, seed=0, adapter_name=name))
    engine.step()
    lines = exposition(engine, "tiny").decode().splitlines()
    (line,) = [line for line in lines if line.startswith("vllm:lora_requests_info{")]
    assert 'running_lora_adapters="one",waiting_lora_adapters="two"' in line
    assert 'max_lora="2",model_name="tiny"' in line
    assert float(line.split()[-1]) > 1e9
