"""The emulated engine behind the real answer service, in virtual time and over HTTP."""

import asyncio
import random
from contextlib import aclosing
from itertools import accumulate

import httpx
import pytest
from adapter_files import HEADERS, adapter_files, form, write_files
from virtual_endpoint import virtual_run

from planner.simulator import ReplicaPool, ServingFleet, SizeShares, simulate
from planner.workloads.trace import Trace
from serving.adapter_store import AdapterStore
from serving.answers import AnswerService
from serving.app import build_app
from serving.emulated.config import EmulatedConfig
from serving.emulated.engine import ANSWER_TOKENS, EmulatedEngine
from serving.emulated.hardware import find_replica
from serving.emulated.runner import EmulatedRunner
from serving.emulated.server import ANSWER, build_emulation, find_tokenizer
from serving.openai_api import CompletionBody

CONFIG = EmulatedConfig(
    model="llama-3.1-8b", hardware="a100", served_model_name="m", max_sequences=16, max_waiting=500
)


@pytest.fixture
async def client(tmp_path):
    service, runner = build_emulation(CONFIG)
    store = AdapterStore(tmp_path / "uploads")
    transport = httpx.ASGITransport(app=build_app(service, runner, store=store))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def _trace(rate, num_requests, seed=0):
    draws = random.Random(seed)
    gaps = [draws.expovariate(rate) for _ in range(num_requests - 1)]
    return Trace(
        list(accumulate(gaps, initial=0.0)),
        [draws.randint(10, 3000) for _ in range(num_requests)],
        [draws.randint(2, 200) for _ in range(num_requests)],
    )


def _emulated_service(clock, config=CONFIG):
    tokenizer = find_tokenizer(config)
    text = tokenizer.encode(ANSWER, add_special_tokens=False)
    engine = EmulatedEngine(find_replica(config), max_waiting=config.max_waiting, text=text)
    runner = EmulatedRunner(engine, clock)
    return AnswerService(runner, tokenizer, model_name="m"), runner


async def _times(service, clock, arrival, prompt_tokens, answer_tokens):
    """Return when the first and the last piece of a streamed answer came."""
    await clock.sleep(arrival - clock.now())
    fields = {"model": "m", "prompt": [300] * prompt_tokens, "max_tokens": answer_tokens}
    body = CompletionBody.model_validate(fields | {"ignore_eos": True, "stream": True})
    request = await service.prepare(body, "r")
    times = []
    async with aclosing(service.stream(body, request)) as events:
        async for event in events:
            if '"finish_reason":null' in event:
                times.append(clock.now())
    return times[0], times[-1]


@pytest.mark.parametrize("rate", [0.5, 4.0, 40.0])
def test_clients_see_the_latencies_that_the_simulator_predicts(rate):
    """TTFT and TPOT of every streamed answer agree to a microsecond, light load to overload."""
    trace = _trace(rate, 60)

    async def work(clock):
        service, _ = _emulated_service(clock)
        rows = zip(trace.arrival_seconds, trace.input_tokens, trace.output_tokens, strict=True)
        return await asyncio.gather(*(_times(service, clock, *row) for row in rows))

    measured = virtual_run(work)
    speed = find_replica(CONFIG).speed
    pool = ReplicaPool(
        name="a",
        market="owned",
        num_replicas=1,
        step_times=speed.step_times,
        kv_capacity_tokens=speed.kv_capacity_tokens,
        max_sequences=speed.max_sequences,
        max_batched_tokens=speed.max_batched_tokens,
    )
    shares = {"m": SizeShares((1_000_000,), ((1.0,),))}
    predicted = simulate(ServingFleet((pool,), shares), trace, seed=0)
    assert [first for first, _ in measured] == pytest.approx(
        predicted.first_token_seconds, abs=1e-6
    )
    assert [last for _, last in measured] == pytest.approx(predicted.completion_seconds, abs=1e-6)


def test_leaving_an_answer_frees_its_memory():
    """A client that goes away takes its sequence with it, and the engine falls idle."""

    async def work(clock):
        service, runner = _emulated_service(clock)
        fields = {"model": "m", "prompt": [300] * 100, "max_tokens": 5000, "ignore_eos": True}
        body = CompletionBody.model_validate(fields)
        stream = service.stream(body, await service.prepare(body, "gone"))
        await anext(stream)
        used = runner.engine.kv_pages.num_in_use
        await stream.aclose()
        await clock.sleep(10)
        return used, runner.engine.kv_pages.num_in_use, runner.engine.counters.generation_tokens

    used, left, num_generated = virtual_run(work)
    assert used >= 100
    assert left == 0
    assert num_generated < 10


async def test_an_answer_is_the_fixed_text_with_true_counts(client):
    """Text, usage, and the reason to end: the limit, or the length at which answers end themselves."""
    body = {"model": "m", "prompt": "import os\n", "max_tokens": 5}
    answer = (await client.post("/v1/completions", json=body)).json()
    tokenizer = find_tokenizer(CONFIG)
    choice = answer["choices"][0]
    assert ANSWER.startswith(choice["text"])
    assert choice["finish_reason"] == "length"
    assert answer["usage"]["completion_tokens"] == 5
    assert answer["usage"]["prompt_tokens"] == len(tokenizer.encode(body["prompt"]))

    chat = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}
    answer = (await client.post("/v1/chat/completions", json=chat | {"stop": "timing"})).json()
    assert answer["choices"][0]["message"]["content"] == ANSWER.partition("timing")[0]


async def test_an_answer_without_a_limit_ends_by_itself(client):
    """A chat that names no limit is no answer of a whole context."""
    runner_body = {"model": "m", "prompt": "a", "max_tokens": ANSWER_TOKENS + 1}
    answer = (await client.post("/v1/completions", json=runner_body)).json()
    assert answer["usage"]["completion_tokens"] == ANSWER_TOKENS
    assert answer["choices"][0]["finish_reason"] == "stop"


async def test_version_says_emulated_and_with_which_coefficients(client):
    """Nobody takes its figures for measured ones."""
    said = (await client.get("/version")).json()
    assert said["engine"] == "emulated"
    assert said["emulated"]["gpu"] == "A100-80GB"
    assert said["emulated"]["coefficients"] == "vllm"
    assert "not fitted" in said["emulated"]["coefficients_of"]


async def test_metrics_have_the_names_of_the_real_engine(client):
    """A dashboard of the real engine works, and lateness is counted beside it."""
    await client.post("/v1/completions", json={"model": "m", "prompt": "a", "max_tokens": 3})
    text = (await client.get("/metrics")).text
    assert 'vllm:generation_tokens_total{model_name="m"} 3.0' in text
    assert 'vllm:kv_cache_usage_perc{model_name="m"} 0.0' in text
    assert 'motley:emulation_late_steps_total{model_name="m"}' in text


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"response_format": {"type": "json_object"}}, 400, "no end-of-text token"),
        ({"max_tokens": 10**6}, 400, "above the context of 131072"),
        ({"prompt": [128256]}, 400, "ids go from 0 to 128255"),
    ],
)
async def test_what_it_cannot_emulate_is_refused(client, body, status, words):
    """No field that would change the answer is silently dropped."""
    fields = {"model": "m", "prompt": "a", "max_tokens": 3} | body
    response = await client.post("/v1/completions", json=fields)
    assert response.status_code == status
    assert words in response.json()["error"]["message"]


async def test_adapters_come_and_go_by_name(client, tmp_path):
    """A published adapter is a model of the endpoint, as routers expect; other folders are refused."""
    folder = write_files(tmp_path / "lora", adapter_files())
    load = {"lora_name": "mine", "lora_path": str(folder)}
    assert (await client.post("/v1/load_lora_adapter", json=load)).status_code == 200
    assert (await client.post("/v1/load_lora_adapter", json=load)).status_code == 400
    body = {"model": "mine", "prompt": "a", "max_tokens": 2}
    assert (await client.post("/v1/completions", json=body)).json()["model"] == "mine"
    wrong = {"lora_name": "other", "lora_path": "/nowhere"}
    assert (await client.post("/v1/load_lora_adapter", json=wrong)).status_code == 400
    (folder / "adapter_model.safetensors").write_bytes(b"other weights")
    wrong = {"lora_name": "other", "lora_path": str(folder)}
    refused = await client.post("/v1/load_lora_adapter", json=wrong)
    assert "no safetensors file" in refused.json()["error"]["message"]
    gone = {"lora_name": "mine"}
    assert (await client.post("/v1/unload_lora_adapter", json=gone)).status_code == 200
    assert (await client.post("/v1/completions", json=body)).status_code == 404


async def test_a_sent_adapter_is_one_of_the_endpoint(client):
    """Uploads pass the same checks as with a real engine, and take each other's place."""
    for rank, is_replaced in ((4, False), (2, True)):
        content = form(adapter_files(rank=rank))
        sent = await client.post("/admin/adapters/mine", content=content, headers=HEADERS)
        assert sent.json()["replaced"] == is_replaced
    body = {"model": "mine", "prompt": "a", "max_tokens": 2}
    assert (await client.post("/v1/completions", json=body)).json()["model"] == "mine"
    assert (await client.delete("/admin/adapters/mine")).status_code == 200


def test_a_full_queue_refuses():
    """One request more than may run and wait is answered with 429's error."""
    config = CONFIG.model_copy(update={"max_sequences": 2, "max_waiting": 1})

    async def work(clock):
        service, _ = _emulated_service(clock, config)
        body = CompletionBody.model_validate({"model": "m", "prompt": [5], "max_tokens": 9})
        requests = [await service.prepare(body, "r") for _ in range(4)]
        answers = (service.answer(body, request) for request in requests)
        return await asyncio.gather(*answers, return_exceptions=True)

    outcomes = virtual_run(work)
    assert [type(outcome).__name__ for outcome in outcomes] == ["dict"] * 3 + ["OverloadedError"]
