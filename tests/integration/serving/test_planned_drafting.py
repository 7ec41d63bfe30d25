"""Drafting left to the calibration, from configuration to HTTP."""

import asyncio
import re
from collections.abc import AsyncIterator

import httpx
import pytest

from serving.answers import AnswerService
from serving.app import build_app
from serving.config import ServeConfig
from serving.engine.drafting_policy import DraftSize
from serving.engine.engine import Engine, EngineLimits
from serving.engine.head_drafter import HeadChainDrafter
from serving.engine.model_drafter import ChainDrafter
from serving.engine.round_calibration import calibrate
from serving.engine.round_costs import MeasuredRound, RoundCosts
from serving.engine.sampling import SamplingParams
from serving.engine.sequence import GenerationRequest
from serving.engine.speculation_control import SpeculationControl
from serving.runner import EngineRunner
from serving.server import build_engine

PROMPT = "def parse(text):\n    return text\n\ndef parse("


@pytest.fixture(scope="module")
def built(tiny_family):
    """Return an engine and tokenizer as the command line builds them with a draft."""
    config = ServeConfig(
        model=str(tiny_family / "target"),
        draft=str(tiny_family / "draft"),
        served_model_name="tiny",
        max_sequences=4,
    )
    return build_engine(config)


@pytest.fixture
async def client(built) -> AsyncIterator[httpx.AsyncClient]:
    engine, tokenizer = built
    runner = EngineRunner(engine)
    runner.start()
    service = AnswerService(runner, tokenizer, model_name="tiny")
    transport = httpx.ASGITransport(app=build_app(service, runner))
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client
    runner.stop()


def test_calibration_gives_the_heads_memory_back(target, head):
    """What the timed rounds kept for their sequences is free for requests."""
    drafter = HeadChainDrafter(head, most_rows=4096)
    most = DraftSize(2, 2)
    calibrate(target, drafter, most=most, max_sequences=2, kv_bytes=1 << 26, most_seconds=0.1)
    assert drafter.memory.num_taken == 0


async def complete(client: httpx.AsyncClient, **fields) -> str:
    body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 30, "temperature": 0.8} | fields
    response = await client.post("/v1/completions", json=body)
    assert response.status_code == 200
    return response.json()["choices"][0]["text"]


def value(text: str, name: str) -> float:
    (found,) = re.findall(rf"^motley:{name}\{{.*\}} (\S+)$", text, re.MULTILINE)
    return float(found)


async def test_a_seeded_text_repeats_beside_others_and_metrics_tell_the_plan(client):
    """The same seed alone and in a crowd, while the number of drafts changes with the load."""
    alone = await complete(client, seed=7)
    crowd = await asyncio.gather(*(complete(client, seed=seed) for seed in range(6, 12)))
    assert crowd[1] == alone
    assert len(set(crowd)) > 1
    text = (await client.get("/metrics")).text
    assert value(text, "speculation_plans_total") >= 1
    assert 1 <= value(text, "speculation_changes_total") <= value(text, "speculation_plans_total")
    assert 0 <= value(text, "speculation_depth") <= 8
    assert value(text, "speculation_rows") >= 1


def test_planned_drafts_leave_every_text_as_it_is_without_them(target, draft, prompts):
    """Sizes that change with load and acceptance change no token, greedy or sampled."""
    costs = RoundCosts(
        tuple(
            MeasuredRound(size, n, n, 1 + 0.03 * size * (n + 1), 0.1 * n)
            for size in (1, 4)
            for n in (0, 2, 8)
        )
    )
    control = SpeculationControl(costs, device="cpu", most=DraftSize(8, 8))
    texts = [
        _texts(target, None, prompts, None),
        _texts(target, ChainDrafter(draft), prompts, control),
    ]
    assert texts[0] == texts[1]
    assert control.num_changes > 1


def _texts(target, drafter, prompts, drafting) -> dict[str, tuple[int, ...]]:
    engine = Engine(
        target,
        drafter,
        num_draft_tokens=8,
        limits=EngineLimits(kv_bytes=1 << 28, max_sequences=4, max_waiting=100),
        eos_ids=frozenset(),
        drafting=drafting,
    )
    texts: dict[str, tuple[int, ...]] = {}
    for index, prompt in enumerate(prompts[::8]):
        params = SamplingParams(max_tokens=10 + 5 * index, temperature=0.9 * (index % 2))
        engine.add(GenerationRequest(str(index), tuple(prompt), params, seed=index))
        texts[str(index)] = ()
    while engine.has_work:
        for output in engine.step():
            texts[output.request_id] += output.tokens
    engine.check_idle()
    return texts
