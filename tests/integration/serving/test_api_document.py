"""The endpoint does what its own OpenAPI document says, whatever is sent."""

from collections.abc import Iterator

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serving.adapter_store import AdapterStore
from serving.answers import AnswerService
from serving.api_document import OPERATIONS
from serving.app import build_app
from serving.engine.engine import Engine, EngineLimits
from serving.engine.model_drafter import ChainDrafter
from serving.runner import EngineRunner

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)
CASES = {"few": 160, "all": 2000}
"""Cases of all paths together that take a body."""
LIMITS = ("max_tokens", "max_completion_tokens", "max_output_tokens")


@pytest.fixture(scope="module")
def app(target, draft, tokenizer, tmp_path_factory) -> Iterator[FastAPI]:
    """Serve the shipped models, in process."""
    limits = EngineLimits(kv_bytes=1 << 28, max_sequences=8, max_waiting=512)
    engine = Engine(
        target, ChainDrafter(draft), num_draft_tokens=3, limits=limits, eos_ids=frozenset({0, 3})
    )
    runner = EngineRunner(engine)
    runner.start()
    store = AdapterStore(tmp_path_factory.mktemp("uploads"))
    yield build_app(AnswerService(runner, tokenizer, model_name="tiny"), runner, store=store)
    store.close()
    runner.stop()
    engine.check_idle()


def sensible(body: object) -> object:
    """Let most cases pass the first checks, and ask for little: the model is slow, not in question."""
    if not isinstance(body, dict):
        return body
    if isinstance(body.get("model"), str) and len(body["model"]) != 3:
        body["model"] = "tiny"
    for name in LIMITS:
        if body.get(name) is None:
            body[name] = 4
        elif isinstance(body[name], int) and not isinstance(body[name], bool):
            body[name] = min(body[name], 4)
    if isinstance(body.get("n"), int) and not isinstance(body["n"], bool):
        body["n"] = min(body["n"], 2)
    return body


@pytest.mark.parametrize("number", ["few", pytest.param("all", marks=pytest.mark.slow)])
def test_no_case_is_a_fault_or_an_undocumented_status(app, number):
    """Generated bodies of every path: no 5xx, documented statuses, types and shapes only."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    paths = [result.ok() for result in schema.get_all_operations()]
    assert len(paths) == len(OPERATIONS)
    with_body = sum(1 for each in OPERATIONS.values() if each.body or each.files)
    for operation in paths:
        cases = CASES[number] // with_body if operation.body else 3
        _check(operation, cases)


def _check(operation, num_cases: int) -> None:
    case_strategy = operation.as_strategy()

    @settings(
        max_examples=num_cases,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=case_strategy)
    def check(case) -> None:
        case.body = sensible(case.body)
        case.call_and_validate(checks=list(CHECKS), timeout=60)

    check()
