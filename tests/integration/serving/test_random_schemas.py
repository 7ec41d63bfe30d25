"""Answers under random JSON schemas parse and validate; what a grammar cannot hold is refused."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterator

import jsonschema
import pytest
from json_schemas import FORMATS as STRING_FORMATS
from json_schemas import SchemaMaker
from served import served

FIRST_SEED = {"few": 0, "all": 10_000}
NUM_JUDGED = {"few": 10, "all": 300}
MOST_CUT_FRACTION = 0.25
AT_ONCE = 6
MOST_TOKENS = 400

FORMATS = jsonschema.FormatChecker(())
FORMATS.checkers = dict(jsonschema.Draft202012Validator.FORMAT_CHECKER.checkers)


@FORMATS.checks("hostname")
def is_hostname(text: object) -> bool:
    """Whether labels of letters, digits and inner hyphens: RFC 1123, section 2.1."""
    if not isinstance(text, str):
        return True
    label = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
    return len(text) < 254 and re.fullmatch(rf"{label}(\.{label})*", text) is not None


def body(schema: dict, seed: int) -> dict:
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    prompt = "settings = "
    common = {
        "model": "tiny",
        "prompt": prompt,
        "max_tokens": MOST_TOKENS,
        "response_format": wanted,
    }
    return common | ({"temperature": 0} if seed % 2 else {"temperature": 1, "seed": seed})


@pytest.fixture(params=[False, True], ids=["alone", "drafted"])
async def client(request, target, draft, tokenizer):
    """Return an endpoint with and without drafts."""
    async with served(target, tokenizer, draft if request.param else None) as client:
        yield client


async def check(client, seed: int) -> bool:
    """Whether an answer was whole; one that was cut by its limit says so and is not judged."""
    schema = SchemaMaker(seed).schema()
    response = await client.post("/v1/completions", json=body(schema, seed))
    assert response.status_code == 200, (schema, response.text)
    answer = response.json()
    (choice,) = answer["choices"]
    if choice["finish_reason"] == "length":
        assert answer["usage"]["completion_tokens"] == MOST_TOKENS
        return False
    assert choice["finish_reason"] == "stop"
    validator = jsonschema.Draft202012Validator(schema, format_checker=FORMATS)
    validator.validate(json.loads(choice["text"]))
    return True


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("number", ["few", pytest.param("all", marks=pytest.mark.slow)])
async def test_answers_validate_under_random_schemas(client, number, pytestconfig, capsys):
    """Each whole answer is valid JSON of its schema; schemas are drawn until enough are judged."""
    seed, num_judged, num_cut = FIRST_SEED[number], 0, 0
    while num_judged < NUM_JUDGED[number]:
        at_once = min(AT_ONCE, NUM_JUDGED[number] - num_judged)
        are_whole = await asyncio.gather(*(check(client, seed + i) for i in range(at_once)))
        seed += at_once
        num_judged += sum(are_whole)
        num_cut += at_once - sum(are_whole)
        assert num_cut <= MOST_CUT_FRACTION * NUM_JUDGED[number]
    line = f"schemas judged={num_judged} cut_by_max_tokens={num_cut} seeds={FIRST_SEED[number]}+"
    with capsys.disabled():
        pytestconfig.get_terminal_writer().line(f"\n{line}")


def keywords(node: object) -> Iterator[str]:
    """Yield the keywords of a schema, and the kind of each of its references."""
    if isinstance(node, list):
        for item in node:
            yield from keywords(item)
    elif isinstance(node, dict):
        for name, value in node.items():
            yield f"{name} {value}" if name in ("format", "$ref") else name
            yield from keywords(value)


def test_random_schemas_hold_what_grammars_are_asked_for():
    """Nesting, enums, arrays, references, formats and bounds stand in many of the 300."""
    seen = Counter()
    for seed in range(FIRST_SEED["all"], FIRST_SEED["all"] + NUM_JUDGED["all"]):
        schema = SchemaMaker(seed).schema()
        seen.update(set(keywords(schema)))
        seen["nested"] += any(
            "properties" in keywords(part) for part in schema["properties"].values()
        )
    wanted = ("nested", "enum", "const", "items", "prefixItems", "anyOf", "allOf", "pattern")
    wanted += ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
    wanted += ("$ref #/$defs/part0", "minLength", "minItems", "required")
    assert {name: seen[name] for name in wanted if seen[name] < 20} == {}
    assert seen["$ref #"] > 0
    assert {
        name: seen[f"format {name}"] for name in STRING_FORMATS if not seen[f"format {name}"]
    } == {}


REFUSED = {
    "uniqueItems": {"type": "array", "uniqueItems": True},
    "not": {"not": {"type": "string"}},
    '"if"': {"if": {"type": "string"}, "then": {"minLength": 2}},
    "oneOf": {"oneOf": [{"type": "string"}, {"type": "string", "maxLength": 3}]},
    "dependentRequired": {"type": "object", "dependentRequired": {"a": ["b"]}},
    "propertyNames": {"type": "object", "propertyNames": {"pattern": "^a"}},
    "contains": {"type": "array", "contains": {"type": "integer"}},
    "unevaluatedProperties": {"type": "object", "unevaluatedProperties": False},
    "nonsense": {"type": "string", "format": "nonsense"},
    "http://other/schema": {"$ref": "http://other/schema"},
    "$dynamicRef": {"$dynamicRef": "#x"},
    "look-around": {"type": "string", "pattern": "^a(?=b)"},
}


@pytest.mark.parametrize("feature", REFUSED)
async def test_a_feature_the_grammar_cannot_hold_is_named(target, tokenizer, feature):
    """Status 400 with the feature in the message, wherever in the schema it stands."""
    nested = {
        "type": "object",
        "properties": {"x": {"anyOf": [REFUSED[feature], {"type": "null"}]}},
    }
    async with served(target, tokenizer) as client:
        for schema in (REFUSED[feature], nested):
            response = await client.post("/v1/completions", json=body(schema, 0))
            error = response.json()["error"]
            assert response.status_code == 400
            assert error["param"] == "response_format"
            assert feature.strip('"') in error["message"]
            assert "\n" not in error["message"]
