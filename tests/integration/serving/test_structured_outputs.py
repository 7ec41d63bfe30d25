"""Answers follow the schema they were asked for, whatever drafts and whatever runs beside them."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Literal

import httpx
import pytest
import torch
from generation import DRAFTERS, generate
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from serving.answers import AnswerService
from serving.app import build_app
from serving.engine.engine import Engine, EngineLimits
from serving.engine.grammar import Grammar
from serving.engine.guidance import GrammarCompiler
from serving.engine.model import FlatModel
from serving.runner import EngineRunner

EOS_IDS = frozenset({0, 3})
Small = Annotated[int, Field(ge=-50, le=50)]
Word = Annotated[str, Field(max_length=6)]


class Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Point(Answer):
    x: Small
    y: Small
    label: Word | None


class Drawing(Answer):
    title: Word
    colour: Literal["red", "green", "dark blue"]
    points: list[Point] = Field(min_length=1, max_length=2)
    origin: Point


class Setting(Answer):
    is_on: bool
    level: Small
    rows: list[list[Small]] = Field(max_length=2)


ROWS = Annotated[list[Annotated[list[Small], Field(max_length=2)]], Field(min_length=2)]
TYPES = {
    "nested": TypeAdapter(Drawing),
    "flat": TypeAdapter(Setting),
    "enum": TypeAdapter(Literal["one", "two", 3, None]),
    "array": TypeAdapter(Annotated[ROWS, Field(max_length=4)]),
    "number": TypeAdapter(Annotated[float, Field(ge=-1.5, le=2.5, multiple_of=0.25)]),
}
SCHEMAS = {name: adapter.json_schema() for name, adapter in TYPES.items()}
PROMPT = "settings = "


def body(schema: dict, **fields) -> dict:
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    common = {"model": "tiny", "prompt": PROMPT, "max_tokens": 300, "response_format": wanted}
    return common | fields


@pytest.fixture(scope="module")
def exact_target(tiny_family) -> FlatModel:
    """Return the shipped target with linears whose rows do not depend on each other's number."""
    folder = str(tiny_family / "target")
    return FlatModel.load(folder, device="cpu", dtype=torch.float32, quantization="int8")


def start_runner(target, drafter, num_draft_tokens: int) -> EngineRunner:
    limits = EngineLimits(kv_bytes=1 << 28, max_sequences=8, max_waiting=100)
    runner = EngineRunner(
        Engine(target, drafter, num_draft_tokens=num_draft_tokens, limits=limits, eos_ids=EOS_IDS)
    )
    runner.start()
    return runner


@pytest.fixture(params=[None, *DRAFTERS], ids=str)
async def client(request, exact_target, drafts, tokenizer) -> AsyncIterator[httpx.AsyncClient]:
    """Return an endpoint with each drafter."""
    kind = DRAFTERS.get(request.param)
    drafter = None if kind is None else kind.make(drafts)
    runner = start_runner(exact_target, drafter, 0 if kind is None else kind.num_nodes)
    service = AnswerService(runner, tokenizer, model_name="tiny")
    transport = httpx.ASGITransport(app=build_app(service, runner))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client
    runner.stop()


@pytest.fixture
async def plain_client(exact_target, tokenizer) -> AsyncIterator[httpx.AsyncClient]:
    """Return an endpoint without drafts."""
    runner = start_runner(exact_target, None, 0)
    service = AnswerService(runner, tokenizer, model_name="tiny")
    transport = httpx.ASGITransport(app=build_app(service, runner))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client
    runner.stop()


async def complete(client: httpx.AsyncClient, content: dict) -> tuple[str, str]:
    """Return an answer's text and why it ended, streamed or not."""
    response = await client.post("/v1/completions", json=content)
    assert response.status_code == 200, response.text
    if not content.get("stream"):
        (choice,) = response.json()["choices"]
        return choice["text"], choice["finish_reason"]
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert lines.pop() == "[DONE]"
    chunks = [json.loads(line)["choices"][0] for line in lines]
    return "".join(chunk["text"] for chunk in chunks), chunks[-1]["finish_reason"]


KINDS_OF_ANSWER = (
    {"temperature": 0},
    {"temperature": 0, "stream": True},
    {"temperature": 1, "seed": 1, "stream": True},
)


async def test_every_answer_is_valid_under_its_schema(client):
    """Greedy and sampled, streamed and whole, all at once and beside requests that ask for none."""
    free = {"model": "tiny", "prompt": "import os\n", "max_tokens": 60, "temperature": 0}
    alone = await complete(client, free)
    asked = [(name, fields) for name in SCHEMAS for fields in KINDS_OF_ANSWER]
    *answers, beside = await asyncio.gather(
        *(complete(client, body(SCHEMAS[name], **fields)) for name, fields in asked),
        complete(client, free),
    )
    for (name, _), (text, reason) in zip(asked, answers, strict=True):
        assert reason == "stop", text
        TYPES[name].validate_json(text)
    whole, streamed = answers[:: len(KINDS_OF_ANSWER)], answers[1 :: len(KINDS_OF_ANSWER)]
    assert whole == streamed
    assert beside == alone


@pytest.fixture(scope="module")
def compiler(exact_target, tokenizer) -> GrammarCompiler:
    return GrammarCompiler(
        tokenizer.backend_tokenizer.to_str(),
        vocabulary_size=exact_target.vocabulary_size,
        end_ids=EOS_IDS,
    )


SETTINGS = {
    "greedy": {"temperature": 0.0},
    "sampled": {
        "temperature": 0.9,
        "top_p": 0.95,
        "repetition_penalty": 1.1,
        "min_tokens": 20,
        "logit_bias": {99: 2.0},
    },
}
SAME_TEXT = [(name, settings) for name in DRAFTERS for settings in SETTINGS]


@pytest.fixture(scope="module")
def grammar(compiler) -> Grammar:
    return compiler.compile("json_schema", json.dumps(SCHEMAS["nested"]))


@pytest.fixture(scope="module")
def plain(exact_target, grammar, prompts) -> Callable[[str], list[tuple[int, ...]]]:
    """Return the constrained texts of the target without drafts, by the settings' name."""
    texts: dict[str, list[tuple[int, ...]]] = {}

    def cached(name: str) -> list[tuple[int, ...]]:
        if name not in texts:
            texts[name], _ = run(exact_target, None, grammar, prompts, name, max_sequences=4)
        return texts[name]

    return cached


def run(target, drafter, grammar, prompts, name, **fields) -> tuple[list[tuple[int, ...]], Engine]:
    return generate(
        target,
        drafter,
        prompts[::13],
        grammar=grammar,
        eos_ids=EOS_IDS,
        **{"max_tokens": 120} | SETTINGS[name] | fields,
    )


@pytest.mark.parametrize(("name", "settings"), SAME_TEXT)
def test_drafting_changes_no_constrained_text(
    exact_target, drafts, grammar, prompts, plain, name, settings
):
    """Greedy text never; sampled text neither where drafts are chosen. Few pages preempt some."""
    kind = DRAFTERS[name]
    texts, engine = run(
        exact_target,
        kind.make(drafts),
        grammar,
        prompts,
        settings,
        num_draft_tokens=kind.num_nodes,
        max_sequences=4,
        kv_bytes=4 * 64 * exact_target.kv_bytes_per_token,
    )
    assert texts == plain(settings)
    assert engine.counters.accepted_tokens > 0
    assert engine.num_preemptions > 0


def test_drafts_of_a_grammar_are_what_it_allows(exact_target, drafts, grammar, prompts):
    """Masked drafts are accepted more often than in free text: the grammar leaves little to guess."""
    kind = DRAFTERS["chain"]
    fields = {"num_draft_tokens": kind.num_nodes, "max_sequences": 8}
    _, engine = run(exact_target, kind.make(drafts), grammar, prompts, "greedy", **fields)
    assert engine.counters.acceptance_length > 3


async def test_a_finished_text_ends_without_an_end_of_text_token(plain_client):
    """Where nothing may follow the answer ends, also with ignore_eos, and counts what it holds."""
    content = {"model": "tiny", "prompt": PROMPT, "max_tokens": 50, "ignore_eos": True}
    asked = {"structured_outputs": {"choice": ["yes", "no"]}}
    response = (await plain_client.post("/v1/completions", json=content | asked)).json()
    (choice,) = response["choices"]
    assert choice["text"] in ("yes", "no")
    assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize(
    ("outputs", "pattern"),
    [
        ({"regex": "[a-c]{3}-[0-9]{2}"}, "[a-c]{3}-[0-9]{2}"),
        ({"choice": ["one (1)", 'two "2"']}, r'one \(1\)|two "2"'),
        ({"grammar": 'root ::= "x" [0-9] | "y"'}, "x[0-9]|y"),
        ({"grammar": 'start: "(" ("1" | start) ")"'}, r"\(+1\)+"),
        ({"json": '{"type": "integer", "minimum": 1, "maximum": 9}'}, "[1-9]"),
        ({"json": {"enum": ["a", "b"]}}, '"[ab]"'),
    ],
    ids=str,
)
async def test_vllms_structured_outputs_are_kept(plain_client, outputs, pattern):
    """Each kind of constraint holds for a sampled answer."""
    content = {"model": "tiny", "prompt": PROMPT, "max_tokens": 60, "structured_outputs": outputs}
    for seed in range(3):
        text, reason = await complete(plain_client, content | {"seed": seed})
        assert reason == "stop"
        assert re.fullmatch(pattern, text), text


@pytest.mark.parametrize("field", ["response_format", "structured_outputs"])
async def test_a_chat_gives_any_json_object(plain_client, field):
    """`json_object` starts an object, and what is whole of it parses."""
    wanted = {"type": "json_object"} if field == "response_format" else {"json_object": True}
    content = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "Answer in JSON."}],
        "max_tokens": 40,
        "temperature": 0,
        field: wanted,
    }
    (choice,) = (await plain_client.post("/v1/chat/completions", json=content)).json()["choices"]
    text = choice["message"]["content"]
    assert text.startswith("{")
    if choice["finish_reason"] == "stop":
        assert isinstance(json.loads(text), dict)


NO_TYPE = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "nothing"}}}


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"response_format": NO_TYPE}, "response_format", "Invalid type: nothing"),
        ({"response_format": {"type": "json_schema"}}, "response_format", "json_schema"),
        ({"response_format": {"type": "xml"}}, "response_format", "type"),
        ({"response_format": "json"}, "response_format", "response_format"),
        ({"structured_outputs": {}}, "structured_outputs", "asks for nothing"),
        ({"structured_outputs": {"xml": "a"}}, "structured_outputs", "xml"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs", "choice"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs", "cannot be read"),
        ({"structured_outputs": {"regex": "(a"}}, "structured_outputs", "regex is refused"),
        (
            {"structured_outputs": {"regex": "a", "json": {}}},
            "structured_outputs",
            "'json', 'regex'",
        ),
        (
            {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
            "structured_outputs",
            "both constrain",
        ),
        ({"guided_json": {}}, "guided_json", "not supported"),
    ],
    ids=str,
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_malformed_constraint_is_one_clear_refusal(
    plain_client, fields, param, words, stream
):
    """Status 400, the field at fault, one line; the next request is answered."""
    content = {"model": "tiny", "prompt": PROMPT, "max_tokens": 2, "stream": stream}
    response = await plain_client.post("/v1/completions", json=content | fields)
    error = response.json()["error"]
    assert response.status_code == 400
    assert error["param"] == param
    assert words in error["message"]
    assert "\n" not in error["message"]
    assert (await plain_client.post("/v1/completions", json=content)).status_code == 200


async def test_a_tokenizer_that_grammars_cannot_follow_refuses_them_and_nothing_else(
    exact_target, tokenizer, caplog
):
    """Status 400 that names the tokenizer, logged once; what asks for no grammar is answered."""
    words = Tokenizer(models.WordLevel(tokenizer.get_vocab(), unk_token="a"))
    odd = PreTrainedTokenizerFast(tokenizer_object=words)
    runner = start_runner(exact_target, None, 0)
    application = build_app(AnswerService(runner, odd, model_name="tiny"), runner)
    transport = httpx.ASGITransport(app=application)
    content = {"model": "tiny", "prompt": [5, 6], "max_tokens": 2}
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        for _ in range(2):
            wanted = {"structured_outputs": {"regex": "a"}}
            response = await client.post("/v1/completions", json=content | wanted)
            error = response.json()["error"]
            assert response.status_code == 400
            assert error["param"] == "structured_outputs"
            assert "tokenizer that no grammar can follow" in error["message"]
        assert (await client.post("/v1/completions", json=content)).status_code == 200
    runner.stop()
    assert caplog.text.count("no structured outputs model=tiny") == 1
