"""An engine in its own process: the same answers as in ours, and every way it can go away."""

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from toy_engine import CRASHING_TOKEN, KILLING_TOKEN, ToyEngine

from serving.engine.reading import ReadRequest
from serving.engine.sampling import SamplingParams
from serving.engine.sequence import GenerationRequest
from serving.engine_child import EngineChild
from serving.engine_process import EngineProcess
from serving.errors import (
    ContextLengthError,
    EngineError,
    ModelError,
    NotFoundError,
    OverloadedError,
    RequestError,
    SlowRequestError,
    UnavailableError,
)
from serving.runner import EngineRunner
from serving.supervision import Backoff

QUICK = Backoff(first_seconds=0.01, most_seconds=0.05, steady_seconds=60)


@asynccontextmanager
async def process(toy: ToyEngine, **options) -> AsyncIterator[EngineProcess]:
    """Yield a process that has loaded."""
    engine = EngineProcess(toy, adapters={}, **{"backoff": QUICK} | options)
    engine.start()
    try:
        await engine.wait_loaded()
        yield engine
    finally:
        await engine.stop()


def request(name: str, *prompt: int, max_tokens: int = 10, **fields) -> GenerationRequest:
    params = SamplingParams(max_tokens=max_tokens, num_logprobs=1)
    return GenerationRequest(name, prompt or (1, 2), params, seed=len(name), **fields)


async def collect(engine, wanted: GenerationRequest) -> list:
    return [output async for output in engine.generate(wanted)]


async def exhaust(stream) -> None:
    async for _ in stream:
        pass


async def wait_until_up(engine: EngineProcess) -> None:
    async with asyncio.timeout(60):
        while engine.problem is not None:
            await asyncio.sleep(0.05)


async def counts(engine: EngineProcess) -> dict[str, float]:
    lines = (await engine.metrics("toy")).decode().splitlines()
    pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    return {name.partition("{")[0]: float(value) for name, value in pairs}


async def test_a_process_answers_as_a_thread_does():
    """Tokens, log-probabilities, limits and refusals are the same, for many requests at once."""
    toy = ToyEngine()
    runner = EngineRunner(toy().engine)
    runner.start()
    requests = [request("r" * length, 1, length % 6) for length in range(1, 40)]
    async with process(toy) as engine:
        apart = await asyncio.gather(*(collect(engine, wanted) for wanted in requests))
        together = await asyncio.gather(*(collect(runner, wanted) for wanted in requests))
        assert apart == together
        assert engine.facts == runner.facts
        with pytest.raises(RequestError, match="max_tokens") as refusal:
            await collect(engine, request("long", max_tokens=10**6))
        assert refusal.value.param == "max_tokens"
        with pytest.raises(NotFoundError, match="no adapter 'x'"):
            await collect(engine, request("adapted", adapter_name="x"))
        with pytest.raises(NotFoundError, match="no adapter 'x'"):
            await engine.unload_adapter("x")
        assert (await counts(engine))["vllm:generation_tokens_total"] == 390
        text = ReadRequest((1, 2, 3), None, 2)
        assert await engine.read(text) == await runner.read(text)
        with pytest.raises(ContextLengthError, match="shorten"):
            await engine.read(ReadRequest((1,) * 10**5))
    runner.stop()


@pytest.mark.parametrize("deadly", [CRASHING_TOKEN, KILLING_TOKEN], ids=["exception", "signal"])
async def test_a_process_that_ends_is_started_again(deadly, caplog):
    """Who was waiting gets an error at once, new requests are refused meanwhile, then all is well."""
    async with process(ToyEngine(step_seconds=0.02)) as engine:
        pid = engine.pid
        running = asyncio.create_task(collect(engine, request("running", max_tokens=4000)))
        await asyncio.sleep(0.2)
        with pytest.raises(UnavailableError, match="starts again; retry later"):
            await collect(engine, request("deadly", deadly, 1, 1))
        with pytest.raises(UnavailableError):
            await running
        with pytest.raises(UnavailableError):
            await collect(engine, request("meanwhile"))
        down = await counts(engine)
        assert down["motley:engine_up"] == 0
        assert engine.facts.vocabulary_size == 6
        await wait_until_up(engine)
        assert len(await collect(engine, request("after"))) == 10
        up = await counts(engine)
        assert (up["motley:engine_up"], up["motley:engine_restarts_total"]) == (1, 1)
        assert engine.pid != pid
    (line,) = [r.getMessage() for r in caplog.records if "engine process ended" in r.getMessage()]
    assert ("SIGKILL" if deadly == KILLING_TOKEN else "exit code 1") in line


async def test_an_engine_that_keeps_ending_waits_longer_and_says_so(monkeypatch, caplog):
    """Each failure in a row doubles the wait, `/health` counts them, and the service outlives them.

    Time spent loading is no steady service.
    """
    start, num_starts, seconds = EngineChild.start, 0, 0.0

    def start_at_last(*arguments, **options) -> EngineChild:
        nonlocal num_starts, seconds
        num_starts += 1
        seconds += 100
        if num_starts in (2, 3, 4):
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return start(*arguments, **options)

    monkeypatch.setattr(EngineChild, "start", start_at_last)
    backoff = Backoff(first_seconds=0.1, most_seconds=0.4, steady_seconds=60)
    async with process(ToyEngine(), backoff=backoff, monotonic=lambda: seconds) as engine:
        with pytest.raises(UnavailableError):
            await collect(engine, request("deadly", CRASHING_TOKEN, 1, 1))
        told = set()
        async with asyncio.timeout(60):
            while (problem := await engine.probe()) is not None:
                told.add(problem)
                await asyncio.sleep(0.01)
        assert len(await collect(engine, request("after"))) == 10
        # The deadly request was not sent again: one more process, which lives.
        assert (num_starts, engine.num_restarts) == (5, 4)
    for number, wait in ((1, "0.1"), (2, "0.2"), (3, "0.4"), (4, "0.4")):
        said = f"(failure {number} in a row) and starts again in {wait} seconds; retry later"
        assert any(said in problem for problem in told)
    ends = [r.getMessage() for r in caplog.records if "engine process ended" in r.getMessage()]
    assert [line.rpartition("=")[2] for line in ends] == ["0.1", "0.2", "0.4", "0.4"]


async def test_a_request_that_takes_too_long_ends_and_frees_its_place():
    """The client gets an error that says how long it had, and the engine drops the sequence."""
    toy = ToyEngine(step_seconds=0.02, max_sequences=1, max_waiting=0)
    async with process(toy, request_timeout_seconds=0.3) as engine:
        stream = engine.generate(request("slow", max_tokens=4000))
        assert (await anext(stream)).tokens
        with pytest.raises(OverloadedError):
            await collect(engine, request("refused"))
        with pytest.raises(SlowRequestError, match=r"longer than 0\.3 seconds"):
            await exhaust(stream)
        async with asyncio.timeout(10):
            while (await counts(engine))["vllm:num_requests_running"]:
                await asyncio.sleep(0.02)


async def test_leaving_a_stream_drops_it_in_the_process():
    """A closed iterator aborts the sequence on the other side."""
    async with process(ToyEngine(step_seconds=0.02)) as engine:
        stream = engine.generate(request("left", max_tokens=4000))
        await anext(stream)
        await stream.aclose()
        async with asyncio.timeout(10):
            while (await counts(engine))["vllm:num_requests_running"]:
                await asyncio.sleep(0.02)


async def test_stopping_ends_what_runs_with_a_reason():
    """No request hangs when the server goes, and none is told to wait for a restart."""
    async with process(ToyEngine(step_seconds=0.02)) as engine:
        running = asyncio.create_task(collect(engine, request("running", max_tokens=4000)))
        await asyncio.sleep(0.2)
        await engine.stop()
        with pytest.raises(UnavailableError, match="shutting down"):
            await running
        assert engine.pid is None
        assert engine.problem == "the server is shutting down; retry elsewhere"


async def test_a_model_that_cannot_be_loaded_is_told_once():
    """The first start's failure reaches who waits for it; nothing is started again."""
    with pytest.raises(ModelError, match="toy: is no model; name another"):
        async with process(ToyEngine(loads=False)):
            pass


async def test_an_engine_that_dies_while_loading_is_told():
    """A builder that fails unforeseen ends the start with how the process ended."""
    with pytest.raises(EngineError, match="ended with exit code 1 while loading"):
        async with process(_fails_unforeseen):
            pass


async def test_a_process_that_cannot_be_started_is_told(monkeypatch):
    """A system without room for another process ends the start with its reason."""

    def no_room(*_arguments, **_options):
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(EngineChild, "start", no_room)
    with pytest.raises(EngineError, match=r"could not be started \(Cannot allocate memory\)"):
        async with process(ToyEngine()):
            pass


def _fails_unforeseen():
    raise RuntimeError("broken")


def test_waits_before_restarts_double_up_to_a_limit():
    """The first end is answered soon, the hundredth in a row after the longest wait."""
    backoff = Backoff(first_seconds=0.5, most_seconds=60, steady_seconds=60)
    waits = [backoff.seconds(number) for number in (1, 2, 3, 8, 100, 10_000)]
    assert waits == [0.5, 1, 2, 60, 60, 60]
