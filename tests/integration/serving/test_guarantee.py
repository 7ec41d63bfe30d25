"""What drafting may change is said wherever an operator looks: log, `/version`, `/metrics`."""

import logging

import httpx
import pytest

from serving.answers import AnswerService
from serving.app import build_app
from serving.config import ServeConfig
from serving.runner import EngineRunner
from serving.server import build_engine


@pytest.mark.parametrize("kind", ["float32", "int8", "int4"])
async def test_log_version_and_metrics_state_that_drafting_changes_no_bit(
    kind, tiny_family, caplog
):
    """The start-up test's result is bit-exact for each type of weights, and said three times."""
    config = ServeConfig(
        model=str(tiny_family / "target"),
        draft=str(tiny_family / "draft"),
        draft_tokens=2,
        served_model_name="tiny",
        kv_bytes=1 << 24,
        target_quantization=kind,
    )
    with caplog.at_level(logging.INFO):
        engine, tokenizer = build_engine(config)
    assert "guarantee=bit-exact" in caplog.text
    runner = EngineRunner(engine)
    runner.start()
    try:
        service = AnswerService(runner, tokenizer, model_name="tiny")
        transport = httpx.ASGITransport(app=build_app(service, runner))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            version = (await client.get("/version")).json()
            metrics = (await client.get("/metrics")).text
    finally:
        runner.stop()
    assert version["guarantee"] == "bit-exact"
    assert 'motley:guarantee_info{guarantee="bit-exact"' in metrics
