"""Answers under random JSON schemas parse and validate; what a grammar cannot hold is refused."""

import asyncio
import json

import jsonschema
import pytest
from json_schemas import SchemaMaker
from served import served

NUM_SCHEMAS = {"few": 20, "all": 300}
AT_ONCE = 6


def body(schema: dict, seed: int) -> dict:
    wanted = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    prompt = "settings = "
    common = {"model": "tiny", "prompt": prompt, "max_tokens": 400, "response_format": wanted}
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
    (choice,) = response.json()["choices"]
    if choice["finish_reason"] == "length":
        return False
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    validator = jsonschema.Draft202012Validator(schema, format_checker=checker)
    validator.validate(json.loads(choice["text"]))
    return True


@pytest.mark.parametrize("number", ["few", pytest.param("all", marks=pytest.mark.slow)])
async def test_answers_validate_under_random_schemas(client, number):
    """Each whole answer is valid JSON of its schema; hardly any is cut short."""
    num_whole = 0
    for first in range(0, NUM_SCHEMAS[number], AT_ONCE):
        seeds = range(first, min(first + AT_ONCE, NUM_SCHEMAS[number]))
        num_whole += sum(await asyncio.gather(*(check(client, seed) for seed in seeds)))
    assert num_whole >= 0.8 * NUM_SCHEMAS[number]


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
