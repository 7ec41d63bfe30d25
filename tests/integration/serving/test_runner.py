"""The engine's thread survives clients that leave at the worst moment, and fails in the open."""

import asyncio
import time

import pytest
from toy_model import TableModel, random_table

from serving.engine.engine import Engine, EngineLimits
from serving.engine.sampling import SamplingParams
from serving.engine.sequence import GenerationRequest
from serving.errors import EngineError
from serving.runner import EngineRunner


class SlowModel(TableModel):
    """A table whose forward takes a while, and fails when told to."""

    fails = False

    def forward(self, batch):
        """Wait, then answer or fail."""
        time.sleep(0.05)
        if self.fails:
            raise RuntimeError("broken")
        return super().forward(batch)


@pytest.fixture
def model():
    return SlowModel(random_table(6, seed=1))


@pytest.fixture
def runner(model):
    limits = EngineLimits(kv_bytes=1000, max_sequences=2, max_waiting=10)
    engine = Engine(model, None, num_draft_tokens=1, limits=limits, eos_ids=frozenset())
    runner = EngineRunner(engine)
    runner.start()
    yield runner
    runner.stop()


async def collect(runner: EngineRunner, name: str, max_tokens: int = 10) -> int:
    request = GenerationRequest(name, (1, 2), SamplingParams(max_tokens=max_tokens), seed=0)
    return sum([len(output.tokens) async for output in runner.generate(request)])


async def test_a_client_that_leaves_before_it_is_added_harms_nobody(runner):
    """A cancelled request is skipped or aborted, and those beside it finish."""
    staying = asyncio.create_task(collect(runner, "stays"))
    await asyncio.sleep(0.08)
    for index in range(5):
        leaving = asyncio.create_task(collect(runner, f"leaves-{index}"))
        await asyncio.sleep(0.005 * index)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
    assert await staying == 10
    assert runner.is_healthy
    for _ in range(100):
        if runner.engine.num_running == runner.engine.num_waiting == 0:
            break
        await asyncio.sleep(0.05)
    assert runner.engine.num_running == runner.engine.num_waiting == 0


async def test_a_failure_ends_running_and_queued_requests_alike(runner, model):
    """No request hangs after the engine failed, whether it was running or still in the queue."""
    running = asyncio.create_task(collect(runner, "running", 50))
    await asyncio.sleep(0.12)
    model.fails = True
    queued = [asyncio.create_task(collect(runner, f"queued-{index}")) for index in range(4)]
    results = await asyncio.wait_for(
        asyncio.gather(running, *queued, return_exceptions=True), timeout=10
    )
    assert all(isinstance(result, EngineError) for result in results)
    assert not runner.is_healthy
