"""The HTTP endpoint over the real engine and the shipped models, in process."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest
import torch

from serving.answers import AnswerService
from serving.app import build_app
from serving.engine.engine import Engine, EngineLimits
from serving.engine.model_drafter import ChainDrafter
from serving.http_requests import MAX_BODY_BYTES
from serving.runner import EngineRunner


@pytest.fixture
async def runner(target, draft) -> AsyncIterator[EngineRunner]:
    limits = EngineLimits(kv_bytes=1 << 28, max_sequences=4, max_waiting=2)
    engine = Engine(
        target, ChainDrafter(draft), num_draft_tokens=3, limits=limits, eos_ids=frozenset({0, 3})
    )
    runner = EngineRunner(engine)
    runner.start()
    yield runner
    runner.stop()


@pytest.fixture
async def client(runner, tokenizer) -> AsyncIterator[httpx.AsyncClient]:
    service = AnswerService(runner, tokenizer, model_name="tiny")
    transport = httpx.ASGITransport(app=build_app(service, runner))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


def completion(**fields) -> dict:
    return {"model": "tiny", "prompt": "import os\n", "max_tokens": 12, "temperature": 0} | fields


def chat(**fields) -> dict:
    messages = [{"role": "user", "content": "Return the sum of a list."}]
    return {"model": "tiny", "messages": messages, "max_tokens": 12, "temperature": 0} | fields


def events(text: str) -> list[dict]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


async def test_streamed_and_whole_completions_have_the_same_text(client):
    """The chunks join to the whole answer and one of them ends it."""
    whole = (await client.post("/v1/completions", json=completion())).json()
    streamed = events((await client.post("/v1/completions", json=completion(stream=True))).text)
    text = "".join(chunk["choices"][0]["text"] for chunk in streamed)
    reasons = [chunk["choices"][0]["finish_reason"] for chunk in streamed]
    assert text == whole["choices"][0]["text"]
    assert [r for r in reasons if r] == [whole["choices"][0]["finish_reason"]]
    assert reasons[-1] is not None


async def test_streamed_and_whole_chats_have_the_same_text(client):
    """A chat stream opens with the role and carries the same text."""
    whole = (await client.post("/v1/chat/completions", json=chat())).json()
    streamed = events((await client.post("/v1/chat/completions", json=chat(stream=True))).text)
    deltas = [chunk["choices"][0]["delta"] for chunk in streamed]
    assert deltas[0]["role"] == "assistant"
    assert (
        "".join(d.get("content", "") for d in deltas) == whole["choices"][0]["message"]["content"]
    )


async def test_usage_counts_are_the_tokenizers(client, tokenizer):
    """Prompt and completion tokens are true, streamed (when asked for) and whole."""
    body = completion()
    whole = (await client.post("/v1/completions", json=body)).json()["usage"]
    asked = completion(stream=True, stream_options={"include_usage": True})
    last = events((await client.post("/v1/completions", json=asked)).text)[-1]
    assert whole["prompt_tokens"] == len(tokenizer.encode(body["prompt"]))
    assert whole["completion_tokens"] == 12
    assert last["choices"] == []
    assert last["usage"] == whole


async def test_token_ids_and_text_prompts_agree(client, tokenizer):
    """A prompt sent as token ids gets the answer of its text."""
    ids = tokenizer.encode("import os\n")
    by_text = (await client.post("/v1/completions", json=completion())).json()
    by_ids = (await client.post("/v1/completions", json=completion(prompt=ids))).json()
    assert by_text["choices"] == by_ids["choices"]


async def test_a_stop_string_ends_the_text_before_it(client):
    """The answer is the free answer up to the stop string, with reason stop."""
    free = (await client.post("/v1/completions", json=completion(max_tokens=24))).json()
    text = free["choices"][0]["text"]
    stop = text[5:8]
    body = completion(max_tokens=24, stop=[stop, "never in there"])
    choice = (await client.post("/v1/completions", json=body)).json()["choices"][0]
    assert choice["text"] == text[: text.index(stop)]
    assert choice["finish_reason"] == "stop"


async def test_a_seed_repeats_the_answer(client):
    """The same seed samples the same text, another seed another one."""
    answers = [
        (await client.post("/v1/completions", json=completion(temperature=1, seed=seed))).json()
        for seed in (1, 1, 2)
    ]
    texts = [answer["choices"][0]["text"] for answer in answers]
    assert texts[0] == texts[1] != texts[2]


async def test_max_completion_tokens_is_heard(client):
    """The newer name of the limit works in chats."""
    body = chat() | {"max_completion_tokens": 3, "ignore_eos": True}
    answer = (await client.post("/v1/chat/completions", json=body)).json()
    assert answer["usage"]["completion_tokens"] == 3


async def test_benign_unknown_fields_are_ignored(client):
    """New SDK fields that change nothing do not break a request."""
    body = completion(store=True, metadata={"a": "b"}, user="u", n=1, logit_bias={})
    assert (await client.post("/v1/completions", json=body)).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v1/completions", completion(model="nope"), 404, "'nope' does not exist"),
        ("/v1/completions", completion(n=200), 400, "n"),
        ("/v1/completions", completion(best_of=2), 400, "best_of 2 is not supported"),
        ("/v1/completions", completion(suffix="x"), 400, "suffix 'x' is not supported"),
        ("/v1/completions", completion(temperature=-1), 400, "temperature"),
        ("/v1/completions", completion(max_tokens=0), 400, "max_tokens"),
        ("/v1/completions", completion(max_tokens="x"), 400, "max_tokens"),
        ("/v1/completions", completion(max_tokens=5000), 400, "above the context of 1024"),
        ("/v1/completions", completion(prompt="a b " * 2000), 400, "shorten the prompt"),
        ("/v1/completions", completion(prompt=""), 400, "prompt is empty"),
        ("/v1/completions", completion(prompt=[5, 99999]), 400, "token 99999"),
        ("/v1/completions", completion(prompt=["a"] * 65, n=2), 400, "130 choices"),
        ("/v1/completions", completion(prompt=["a", ""]), 400, "prompt is empty"),
        ("/v1/completions", completion(prompt=[]), 400, "prompt is empty"),
        ("/v1/completions", completion(logit_bias={"99999": 1}), 400, "token 99999"),
        ("/v1/completions", completion(logit_bias={"5": 101}), 400, "logit_bias"),
        ("/v1/completions", completion(min_tokens=13), 400, "min_tokens 13 is above max_tokens 12"),
        ("/v1/completions", completion(presence_penalty=3), 400, "presence_penalty"),
        ("/v1/completions", {"model": "tiny"}, 400, "prompt"),
        ("/v1/chat/completions", chat(messages=[]), 400, "messages"),
        ("/v1/chat/completions", chat(top_logprobs=2), 400, "top_logprobs needs logprobs"),
        ("/v1/chat/completions", chat(logprobs=True, top_logprobs=21), 400, "top_logprobs"),
        ("/v1/chat/completions", chat(tools=[{"type": "function"}]), 400, "tools"),
        ("/v1/load_lora_adapter", {"lora_name": "x", "lora_path": "/nowhere"}, 400, "/nowhere"),
        ("/v1/load_lora_adapter", {"lora_name": "x"}, 400, "lora_path"),
        ("/v1/load_lora_adapter", {"lora_name": "tiny", "lora_path": "x"}, 400, "base model"),
        ("/v1/unload_lora_adapter", {"lora_name": "x"}, 404, "no adapter 'x'"),
        ("/v1/nope", {}, 404, "/v1/nope"),
        ("/health", {}, 405, "does not take POST"),
    ],
)
async def test_what_cannot_be_served_is_one_openai_error(client, path, body, status, words):
    """Every refusal has OpenAI's body, the right status, and one line that names the value."""
    response = await client.post(path, json=body)
    error = response.json()["error"]
    assert response.status_code == status == error["code"]
    assert words in error["message"]
    assert "\n" not in error["message"]
    assert set(error) == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"]


@pytest.mark.parametrize("content", [b"{", b"[1]", b'"x"', b"\xff\xfe", b"", b"[" * 100_000])
async def test_a_malformed_body_is_a_bad_request(client, content):
    """What is not a JSON object is refused in one line."""
    response = await client.post("/v1/completions", content=content)
    assert response.status_code == 400
    assert "body" in response.json()["error"]["message"]


async def test_a_huge_body_is_refused(client):
    """A body above the limit is answered with 413 and the limit."""
    response = await client.post("/v1/completions", content=b"x" * (MAX_BODY_BYTES + 1))
    assert response.status_code == 413


async def test_the_request_id_comes_back(client):
    """A client's request id is echoed; one with odd characters is replaced."""
    good = await client.get("/health", headers={"x-request-id": "abc-1"})
    odd = await client.get("/health", headers={"x-request-id": "a b\tc"})
    assert good.headers["x-request-id"] == "abc-1"
    assert odd.headers["x-request-id"] != "a b\tc"


async def test_leaving_a_stream_frees_the_sequence(client, runner, tokenizer):
    """A client that goes away takes its sequence with it."""
    service = AnswerService(runner, tokenizer, model_name="tiny")
    from serving.openai_api import CompletionBody

    body = CompletionBody.model_validate(completion(max_tokens=900, ignore_eos=True))
    stream = service.stream(body, await service.prepare(body, "gone"))
    await anext(stream)
    await stream.aclose()
    for _ in range(200):
        if runner.engine.num_running == 0:
            break
        await asyncio.sleep(0.05)
    assert runner.engine.num_running == 0


async def test_a_full_queue_is_answered_with_retry_after(client):
    """Requests beyond running and waiting get 429 and a hint when to come back."""
    body = completion(max_tokens=200, ignore_eos=True)
    responses = await asyncio.gather(
        *(client.post("/v1/completions", json=body) for _ in range(12))
    )
    statuses = [response.status_code for response in responses]
    assert set(statuses) == {200, 429}
    refused = next(r for r in responses if r.status_code == 429)
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["type"] == "RateLimitError"


async def test_an_engine_that_fails_is_seen_by_health_and_clients(client, target, monkeypatch):
    """After a fault in a step the client gets 500 without a stack trace, and health says 503."""

    def broken(_batch):
        raise RuntimeError("secret detail")

    monkeypatch.setattr(target, "forward", broken)
    failed = await client.post("/v1/completions", json=completion())
    assert failed.status_code in (500, 503)
    assert "secret" not in failed.text
    assert (await client.get("/health")).status_code == 503


async def test_metrics_count_drafting(client):
    """The counters carry vllm's names, so that τ = 1 + accepted / drafts can be read."""
    await client.post("/v1/completions", json=completion())
    text = (await client.get("/metrics")).text
    assert 'vllm:generation_tokens_total{model_name="tiny"} 12.0' in text
    assert 'vllm:spec_decode_num_drafts_total{model_name="tiny"}' in text
    name = 'vllm:spec_decode_num_accepted_tokens_per_pos_total{model_name="tiny",position="0"}'
    assert name in text


async def test_an_adapter_answers_under_its_own_name(client, tiny_family, tmp_path):
    """Loading adds a model, unloading removes it, and the base model is not touched."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(tiny_family / "target", dtype=torch.float32)
    adapted = get_peft_model(base, LoraConfig(r=4, target_modules=["q_proj", "up_proj"]))
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(tmp_path / "adapter")
    before = (await client.post("/v1/completions", json=completion())).json()
    load = {"lora_name": "mine", "lora_path": str(tmp_path / "adapter")}
    assert (await client.post("/v1/load_lora_adapter", json=load)).status_code == 200
    assert (await client.post("/v1/load_lora_adapter", json=load)).status_code == 400
    names = [card["id"] for card in (await client.get("/v1/models")).json()["data"]]
    assert names == ["tiny", "mine"]
    card = (await client.get("/v1/models/mine")).json()
    assert (card["root"], card["parent"]) == ("tiny", "tiny")
    mine = (await client.post("/v1/completions", json=completion(model="mine"))).json()
    after = (await client.post("/v1/completions", json=completion())).json()
    assert mine["model"] == "mine"
    assert mine["choices"][0]["text"] != before["choices"][0]["text"]
    assert after["choices"] == before["choices"]
    unload = {"lora_name": "mine"}
    assert (await client.post("/v1/unload_lora_adapter", json=unload)).status_code == 200
    assert (await client.get("/v1/models/mine")).status_code == 404


async def test_two_requests_of_one_id_do_not_mix(client):
    """Clients may repeat a request id; each still gets its own answer."""
    bodies = [completion(prompt=prompt, max_tokens=20) for prompt in ("import os\n", "class A")]
    alone = [(await client.post("/v1/completions", json=body)).json() for body in bodies]
    together = await asyncio.gather(
        *(client.post("/v1/completions", json=b, headers={"x-request-id": "same"}) for b in bodies)
    )
    for one, other in zip(alone, together, strict=True):
        assert other.json()["choices"] == one["choices"]


@pytest.mark.parametrize(
    "content",
    [
        rb'{"model": "tiny", "prompt": "\ud800"}',
        b'{"model": "tiny", "prompt": "\xed\xa0\x80"}',
        '{"model": "tiny", "prompt": "a"}'.encode("utf-16"),
        b'{"model": "tiny", "prompt": "a", "max_tokens": ' + b"9" * 5000 + b"}",
        b'{"model": "tiny", "prompt": "a", "temperature": NaN}',
        b'{"model": "tiny", "prompt": "a", "logprobs": true}',
    ],
    ids=["surrogate", "surrogate in bytes", "utf-16", "huge integer", "nan", "logprobs of true"],
)
async def test_odd_values_are_bad_requests(client, content):
    """What JSON or Python allows and the endpoint cannot mean is refused, never a fault."""
    assert (await client.post("/v1/completions", content=content)).status_code == 400


@pytest.mark.parametrize("path", ["a" * 5001, "nul\0byte"])
async def test_adapter_paths_that_are_none_are_refused(client, path):
    """A path the file system cannot hold is one clear line."""
    body = {"lora_name": "x", "lora_path": path}
    response = await client.post("/v1/load_lora_adapter", json=body)
    assert response.status_code == 400
    assert len(response.json()["error"]["message"]) < 400


async def test_the_smallest_temperatures_are_greedy(client):
    """A temperature that would overflow the logits answers as temperature 0 does."""
    answers = [
        (await client.post("/v1/completions", json=completion(temperature=value))).json()
        for value in (0, 1e-38)
    ]
    assert answers[0]["choices"] == answers[1]["choices"]


async def test_leaving_a_whole_answer_stops_it(runner, tokenizer):
    """A client that goes away before a non-streamed answer frees its sequence."""
    app = build_app(AnswerService(runner, tokenizer, model_name="tiny"), runner)
    body = json.dumps(completion(max_tokens=900, ignore_eos=True)).encode()
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> dict:
        message = next(messages, None)
        if message is None:
            while runner.engine.num_running == 0:
                await asyncio.sleep(0.01)
            return {"type": "http.disconnect"}
        return message

    async def send(_message: dict) -> None:
        pass

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/completions",
        "headers": [],
        "query_string": b"",
    }
    await asyncio.wait_for(app(scope, receive, send), timeout=30)
    for _ in range(200):
        if runner.engine.num_running == 0:
            break
        await asyncio.sleep(0.05)
    assert runner.engine.num_running == 0
    assert runner.engine.counters.generation_tokens < 900


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_without_finite_logits_is_an_error(client, target, monkeypatch, stream):
    """The fault is ours: 500 with OpenAI's body, counted, and the next request is answered."""
    sound = target.forward
    with monkeypatch.context() as patch:
        patch.setattr(target, "forward", lambda batch: sound(batch) * float("nan"))
        answer = await client.post("/v1/completions", json=completion(stream=stream))
    assert answer.status_code == 500
    assert "logits that are not finite" in answer.json()["error"]["message"]
    assert (await client.post("/v1/completions", json=completion())).status_code == 200
    text = (await client.get("/metrics")).text
    assert "motley:failed_requests_total" in text
    for name in ("prefix_cache_queries_total", "prefix_cache_hits_total", "num_preemptions_total"):
        assert f"vllm:{name}{{" in text
    assert "vllm:kv_cache_usage_perc{" in text


@pytest.mark.parametrize("value", [1, "yes", "true"])
async def test_flags_are_booleans(client, value):
    """What OpenAI refuses is refused by name: a proxy in between must understand the same."""
    for fields in ({"stream": value}, {"stream": True, "stream_options": {"include_usage": value}}):
        answer = await client.post("/v1/completions", json=completion(**fields))
        assert answer.status_code == 400
        assert answer.json()["error"]["param"] == list(fields)[-1]


@pytest.mark.parametrize("name", ["", "a b", "a\nb", "x" * 257])
async def test_an_adapters_name_is_one_word(client, name):
    """A name that would break a log line is refused before the folder is read."""
    answer = await client.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": "x"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "lora_name"
