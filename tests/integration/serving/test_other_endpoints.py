"""Responses, tokenising and embeddings over the real engine and the shipped models."""

import asyncio
import base64
import json
import struct
from types import SimpleNamespace

import pytest
import torch
from served import events, post, served
from transformers import AutoModelForCausalLM

from serving.answers import AnswerService
from serving.embeddings_api import EmbeddingsBody
from serving.errors import SlowRequestError

RESPONSES = "/v1/responses"


@pytest.fixture
async def client(target, draft, tokenizer):
    """Return an endpoint with drafts."""
    async with served(target, tokenizer, draft) as client:
        yield client


def response(**fields) -> dict:
    common = {"model": "tiny", "input": "Return the sum of a list.", "max_output_tokens": 24}
    return common | {"temperature": 0} | fields


def chat(**fields) -> dict:
    messages = [{"role": "user", "content": "Return the sum of a list."}]
    return {"model": "tiny", "messages": messages, "max_tokens": 24, "temperature": 0} | fields


async def test_a_response_is_the_chats_answer(client):
    """The same text and counts, whole and streamed, with the events OpenAI documents."""
    choice = (await post(client, "/v1/chat/completions", chat()))["choices"][0]
    whole = await post(client, RESPONSES, response())
    (item,) = whole["output"]
    assert item["content"][0]["text"] == choice["message"]["content"]
    assert whole["object"] == "response"
    expected = {"length": "incomplete", "stop": "completed"}[choice["finish_reason"]]
    assert whole["status"] == item["status"] == expected
    streamed = await events(client, RESPONSES, response())
    names = [event["type"] for event in streamed]
    assert names[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert names[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        f"response.{expected}",
    ]
    assert [event["sequence_number"] for event in streamed] == list(range(len(streamed)))
    text = "".join(e["delta"] for e in streamed if e["type"] == "response.output_text.delta")
    last = streamed[-1]["response"]
    assert text == last["output"][0]["content"][0]["text"] == choice["message"]["content"]
    assert last["usage"] == whole["usage"]


async def test_instructions_and_items_are_a_conversation(client):
    """Instructions are the system's words, items its messages, parts their lines."""
    by_chat = chat(
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Return it."},
            {"role": "assistant", "content": "def"},
            {"role": "user", "content": "again"},
        ]
    )
    items = [
        {"role": "user", "content": [{"type": "input_text", "text": "Return it."}]},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "def"}],
        },
        {"role": "user", "content": "again"},
    ]
    answer = (await post(client, "/v1/chat/completions", by_chat))["choices"][0]["message"]
    whole = await post(client, RESPONSES, response(input=items, instructions="Be brief."))
    assert whole["output"][0]["content"][0]["text"] == answer["content"]


async def test_calls_are_items(client):
    """A required call streams its arguments; its result may be sent back."""
    parameters = {
        "type": "object",
        "properties": {"day": {"enum": ["today", "tomorrow"]}},
        "required": ["day"],
        "additionalProperties": False,
    }
    tool = {"type": "function", "name": "look", "parameters": parameters}
    body = response(tools=[tool], tool_choice={"type": "function", "name": "look"})
    body["max_output_tokens"] = 80
    whole = await post(client, RESPONSES, body)
    (call,) = whole["output"]
    assert call["name"] == "look"
    assert json.loads(call["arguments"])["day"] in ("today", "tomorrow")
    streamed = await events(client, RESPONSES, body)
    deltas = [e for e in streamed if e["type"] == "response.function_call_arguments.delta"]
    assert "".join(e["delta"] for e in deltas) == call["arguments"]
    assert streamed[-1]["response"]["output"][0]["arguments"] == call["arguments"]
    result = {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"}
    items = [{"role": "user", "content": "Look."}, call, result]
    assert (await post(client, RESPONSES, response(input=items)))["output"]


async def test_a_response_follows_its_schema(client):
    """`text.format` is a chat's `response_format`."""
    schema = {"type": "object", "properties": {"x": {"enum": [1, 2]}}, "required": ["x"]}
    schema["additionalProperties"] = False
    wanted = {"format": {"type": "json_schema", "name": "a", "schema": schema}}
    whole = await post(client, RESPONSES, response(text=wanted, max_output_tokens=150))
    assert json.loads(whole["output"][0]["content"][0]["text"])["x"] in (1, 2)


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        (RESPONSES, response(previous_response_id="resp_1"), "previous_response_id"),
        (RESPONSES, response(background=True), "background"),
        (RESPONSES, response(truncation="auto"), "truncation"),
        (RESPONSES, response(tools=[{"type": "web_search"}]), "tools"),
        (RESPONSES, response(input=[]), "input"),
        (RESPONSES, response(input=[{"type": "reasoning"}]), "input"),
        (RESPONSES, response(input=[{"type": "item_reference", "id": "x"}]), "input"),
        (RESPONSES, response(text={"format": {"type": "json_schema"}}), "input"),
        (RESPONSES, response(stop=["x"]), "stop"),
        (RESPONSES, response(response_format={"type": "json_object"}), "response_format"),
        (RESPONSES, response(include=["message.output_text.logprobs"]), "include"),
        ("/v1/completions", {"model": "tiny", "prompt": "a", "max_completion_tokens": 4}, None),
        ("/v1/completions", {"model": "tiny", "prompt": "a", "return_token_ids": True}, None),
        ("/v1/embeddings", {"model": "tiny", "input": "a", "dimensions": 8}, "dimensions"),
        ("/v1/embeddings", {"model": "tiny", "input": "a", "normalize": False}, "normalize"),
        (
            "/v1/embeddings",
            {"model": "tiny", "input": "a", "truncate_prompt_tokens": 4},
            "truncate_prompt_tokens",
        ),
        ("/v1/embeddings", {"model": "tiny", "input": ""}, "input"),
        ("/v1/embeddings", {"model": "tiny", "input": [[99999]]}, "input"),
        ("/v1/embeddings", {"model": "tiny", "input": "a b " * 2000}, None),
        ("/v1/embeddings", {"model": "tiny", "input": "a", "encoding_format": "int8"}, None),
        ("/tokenize", {"model": "tiny"}, "prompt"),
        ("/detokenize", {"model": "tiny", "tokens": [99999]}, "tokens"),
    ],
)
async def test_what_is_not_supported_is_named(client, path, body, param):
    """Status 400, the field at fault, one line."""
    answer = await client.post(path, json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert param in (None, error["param"])
    assert "\n" not in error["message"]


async def test_text_is_tokenised_and_back(client, tokenizer):
    """Counts, ids and strings are the tokenizer's; messages go through the template."""
    text = "naïve = 1  # ✓\n"
    found = await post(client, "/tokenize", {"prompt": text, "return_token_strs": True})
    ids = tokenizer.encode(text)
    assert found["tokens"] == ids
    assert found["count"] == len(ids)
    assert found["token_strs"] == tokenizer.convert_ids_to_tokens(ids)
    assert found["max_model_len"] == 1024
    back = await post(client, "/detokenize", {"model": "tiny", "tokens": ids})
    assert back == {"prompt": text}
    messages = chat()["messages"]
    by_chat = await post(client, "/tokenize", {"model": "tiny", "messages": messages})
    whole = await post(client, "/v1/chat/completions", chat())
    assert by_chat["count"] == whole["usage"]["prompt_tokens"]


async def test_embeddings_are_the_mean_hidden_state(client, tokenizer, tiny_family):
    """The same as transformers', of length 1, for texts and ids, as numbers and as base64."""
    texts = ["import os\n", "def read(self):\n    return 1\n" * 40]
    body = {"model": "tiny", "input": texts}
    answer = await post(client, "/v1/embeddings", body)
    model = AutoModelForCausalLM.from_pretrained(tiny_family / "target", dtype=torch.float32)
    ids = [tokenizer.encode(text) for text in texts]
    for vector, one in zip(answer["data"], ids, strict=True):
        with torch.inference_mode():
            states = model.base_model(torch.tensor([one])).last_hidden_state[0]
        expected = torch.nn.functional.normalize(states.mean(0), dim=0)
        assert vector["embedding"] == pytest.approx(expected.tolist(), abs=1e-5)
    assert answer["usage"]["prompt_tokens"] == sum(map(len, ids))
    by_ids = await post(client, "/v1/embeddings", body | {"input": ids})
    assert by_ids["data"] == answer["data"]
    packed = await post(client, "/v1/embeddings", body | {"encoding_format": "base64"})
    raw = base64.b64decode(packed["data"][1]["embedding"])
    values = struct.unpack(f"<{len(raw) // 4}f", raw)
    assert values == pytest.approx(answer["data"][1]["embedding"], abs=1e-6)


async def test_reading_has_a_time_limit_for_all_texts_together(tokenizer):
    """Texts that are each in time and together too late end with 408's error."""

    async def read(_request):
        await asyncio.sleep(0.02)
        return SimpleNamespace(pooled=[1.0])

    facts = SimpleNamespace(vocabulary_size=len(tokenizer))
    engine = SimpleNamespace(facts=facts, adapter_names=[], read=read)
    service = AnswerService(engine, tokenizer, model_name="tiny", request_timeout_seconds=0.1)
    await service.embed(EmbeddingsBody(model="tiny", input="a"))
    with pytest.raises(SlowRequestError, match="longer than"):
        await service.embed(EmbeddingsBody(model="tiny", input=["a"] * 50))
