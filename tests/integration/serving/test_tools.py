"""Tool calls: required and named by grammar, automatic from the model's own syntax."""

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from served import events, post, served

from serving.tool_parsers import HERMES, ToolCallParser

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "What is the weather in Paris?"}]


class Place(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    city: str = Field(max_length=8)
    is_near: bool | None


class Weather(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    place: Place
    days: int = Field(ge=1, le=14)
    unit: str = Field(pattern="^[CF]$")


class Clock(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    zones: list[int] = Field(min_length=1, max_length=3)


ARGUMENTS = {"get_weather": TypeAdapter(Weather), "get_time": TypeAdapter(Clock)}
TOOLS = [
    {
        "type": "function",
        "function": {"name": name, "description": name, "parameters": adapter.json_schema()},
    }
    for name, adapter in ARGUMENTS.items()
]


def body(**fields) -> dict:
    common = {"model": "tiny", "messages": MESSAGES, "tools": TOOLS, "max_tokens": 420}
    return common | {"temperature": 0} | fields


@pytest.fixture(params=[False, True], ids=["alone", "drafted"])
async def client(request, target, draft, tokenizer):
    """Return an endpoint with and without drafts."""
    async with served(target, tokenizer, draft if request.param else None) as client:
        yield client


@pytest.fixture
async def drafted(target, draft, tokenizer):
    async with served(target, tokenizer, draft) as client:
        yield client


def joined(chunks: list[dict]) -> tuple[str, list[dict], list[str]]:
    """Return the content, the calls and the reasons of a streamed choice."""
    content, calls, reasons = "", [], []
    for chunk in chunks:
        (part,) = chunk["choices"]
        content += part["delta"].get("content") or ""
        for delta in part["delta"].get("tool_calls", []):
            if "id" in delta:
                assert delta["index"] == len(calls)
                calls.append({"name": delta["function"]["name"], "arguments": ""})
            calls[delta["index"]]["arguments"] += delta["function"]["arguments"]
        reasons += [part["finish_reason"]] if part["finish_reason"] else []
    return content, calls, reasons


@pytest.mark.parametrize("fields", [{"temperature": 0}, {"temperature": 1, "seed": 2}], ids=str)
@pytest.mark.parametrize("choice", ["required", "get_weather", "get_time"])
async def test_required_arguments_validate(client, choice, fields):
    """With `required` or a name the answer is calls whose arguments fit, whole and streamed."""
    named = {"type": "function", "function": {"name": choice}}
    asked = body(tool_choice=choice if choice == "required" else named, **fields)
    (whole,) = (await post(client, CHAT, asked))["choices"]
    content, calls, reasons = joined(await events(client, CHAT, asked))
    assert whole["message"]["content"] is None
    assert content == ""
    assert reasons == [whole["finish_reason"]]
    assert calls == [call["function"] for call in whole["message"]["tool_calls"]]
    if whole["finish_reason"] == "length":
        calls = calls[:-1]
    else:
        assert whole["finish_reason"] == "tool_calls"
    for call in calls:
        ARGUMENTS[call["name"]].validate_json(call["arguments"])
        assert choice in ("required", call["name"])
    assert len(calls) == 1 or choice == "required"


async def test_one_call_where_parallel_ones_are_refused(client):
    """`parallel_tool_calls` false leaves room for one."""
    asked = body(tool_choice="required", parallel_tool_calls=False, temperature=1, seed=5)
    (choice,) = (await post(client, CHAT, asked))["choices"]
    assert len(choice["message"]["tool_calls"]) == 1


async def test_the_models_own_syntax_is_a_call(drafted, monkeypatch):
    """With `auto` what the model writes in its family's syntax is taken out of the content."""
    written = '<tool_call>\n{"name": "get_time", "arguments": {"zones": [1]}}\n</tool_call>'
    asked = body(
        tools=TOOLS, structured_outputs={"choice": [written]}, tool_choice="none", max_tokens=90
    )
    (plain,) = (await post(drafted, CHAT, asked))["choices"]
    assert plain["message"]["content"] == written
    monkeypatch.setattr("serving.openai_api.ChatBody.constraint", _first_constraint)
    asked["tool_choice"] = "auto"
    (choice,) = (await post(drafted, CHAT, asked))["choices"]
    content, calls, reasons = joined(await events(drafted, CHAT, asked))
    expected = [{"name": "get_time", "arguments": '{"zones": [1]}'}]
    assert calls == expected == [call["function"] for call in choice["message"]["tool_calls"]]
    assert content == ""
    assert reasons == ["tool_calls"] == [choice["finish_reason"]]


def _first_constraint(self):
    return self.structured_outputs.constraint()


async def test_an_answer_in_words_stays_words(drafted):
    """With `auto` an answer without calls is what it would be, token by token."""
    asked = body(tool_choice="auto", max_tokens=30)
    (choice,) = (await post(drafted, CHAT, asked))["choices"]
    content, calls, _ = joined(await events(drafted, CHAT, asked))
    assert content == choice["message"]["content"] != ""
    assert calls == []
    assert "tool_calls" not in choice["message"]
    parser = ToolCallParser(HERMES)
    assert "".join([*parser.push(content), *parser.finish()]) == content


async def test_the_model_is_told_of_its_tools(drafted):
    """A template without a place for tools gets them as a system message; `none` leaves them out."""
    usages = [
        (await post(drafted, CHAT, asked))["usage"]["prompt_tokens"]
        for asked in (
            body(max_tokens=1),
            body(max_tokens=1, tool_choice="none"),
            body(max_tokens=1, tools=None),
        )
    ]
    assert usages[0] > usages[1] == usages[2]


async def test_calls_and_results_may_be_sent_back(drafted):
    """A conversation with a call and its result is a prompt like any other."""
    call = {"id": "a", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}
    messages = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "12:00"},
    ]
    assert (await post(drafted, CHAT, body(messages=messages, max_tokens=4)))["choices"]


REFERENCE = {"type": "object", "properties": {"x": {"not": {"type": "string"}}}}


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"tool_choice": "required", "tools": []}, "tool_choice", "tools is empty"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "nope"}}},
            "tool_choice",
            "'nope'",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools", "type"),
        ({"tools": [*TOOLS, TOOLS[0]]}, "tools", "two functions of one name"),
        ({"response_format": {"type": "json_object"}}, "response_format", "both shape"),
        ({"functions": [{"name": "f"}], "tools": None}, "functions", "not supported"),
        (
            {
                "tool_choice": "required",
                "tools": [{"type": "function", "function": {"name": "f", "parameters": REFERENCE}}],
            },
            "tools",
            "not",
        ),
    ],
)
async def test_tools_that_cannot_be_are_refused(drafted, fields, param, words):
    """Status 400 and the field at fault."""
    response = await drafted.post(CHAT, json=body(**fields))
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert words in response.json()["error"]["message"]
