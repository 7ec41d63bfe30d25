"""Replicas are killed, stopped, slowed, and made to answer nonsense, under 200 requests a second.

Six replicas, of which two at the least are well at any time; who is well changes all the while. No
request may fail that a replica could have served which was well from the request's first moment to its
last; a stream that has begun may break only where its own replica did, and then with an error event.
Every answer is checked against its prompt. Meanwhile one client in twenty leaves early. At the end
nothing that the router has written may hold a key or a word of a prompt.
"""

import asyncio
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from chaos_replica import MANNERS, MODEL, answer_words
from keys_files import ADMIN, bearer, write_governance
from plain_client import PlainClient

logger = logging.getLogger(__name__)

RATE = 200.0
NUM_REPLICAS = 6
LEAST_WELL = 2
SICK_SECONDS = (1.0, 6.0)
EVENT_SECONDS = 0.5
CLIENT_KEY, REPLICA_KEY = "sk-client-0815", "sk-replica-4711"
SECRET = "xyzzy-of-the-prompt"
LEAVES_EARLY = 0.05
LATE_SECONDS = 60.0
"""Longest answer; a stopped replica holds its requests until checks have found it down."""


@dataclass
class Replica:
    """One process, and when it was not well: pairs of monotonic seconds."""

    process: subprocess.Popen[str]
    port: int
    sick: list[tuple[float, float]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def is_sick(self) -> bool:
        return bool(self.sick) and self.sick[-1][1] == float("inf")

    def kill(self) -> None:
        """End the process."""
        assert self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def was_well(self, begin: float, end: float) -> bool:
        """Return whether it was well all that time."""
        return all(end < since or begin > until for since, until in self.sick)


def start_replica(port: int = 0) -> Replica:
    script = Path(__file__).parents[1] / "chaos_replica.py"
    process = subprocess.Popen(
        [sys.executable, str(script), str(port)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return Replica(process, int(process.stdout.readline()))


@dataclass
class Outcome:
    """How one request ended, as its client saw it."""

    request_id: str
    begin: float
    end: float
    problem: str | None
    """None: the right answer, to its last byte; or the client left."""
    had_begun: bool
    """Whether a stream had begun."""
    has_left: bool
    """Whether the client left, perhaps before the router had read its request."""


@dataclass
class Chaos:
    """The fleet, its illnesses, and the load."""

    client: PlainClient
    replicas: list[Replica]
    draws: random.Random = field(default_factory=lambda: random.Random(7))
    outcomes: list[Outcome] = field(default_factory=list)
    manners: Counter[str] = field(default_factory=Counter)
    rate: float = 0.0
    """Requests a second that were sent."""

    async def run(self, seconds: float) -> None:
        """Send load and fall ill for so long; everyone is well again at the end."""
        async with asyncio.TaskGroup() as group:
            infecting = group.create_task(self._infect(group))
            await self._load(seconds)
            infecting.cancel()

    async def _load(self, seconds: float) -> None:
        begin = time.monotonic()
        async with asyncio.TaskGroup() as group:
            for number in range(round(RATE * seconds)):
                await asyncio.sleep(max(0.0, begin + number / RATE - time.monotonic()))
                group.create_task(self._ask(number))
            self.rate = (number + 1) / (time.monotonic() - begin)

    async def _ask(self, number: int) -> None:
        prompt = f"{SECRET} number {number} " + f"{number % 16} shared words " * 8
        request_id = f"chaos-{number}"
        begin = time.monotonic()
        problem, had_begun = None, False
        has_left = self.draws.random() < LEAVES_EARLY
        try:
            async with asyncio.timeout(LATE_SECONDS):
                content = {"model": MODEL, "prompt": prompt, "stream": bool(number % 2)}
                stays = self.draws.uniform(0, 0.04) if has_left else None
                status, answer = await self.client.post(
                    "/v1/completions", content, request_id=request_id, stays_seconds=stays
                )
            if not has_left:
                judge = judge_stream if content["stream"] and status == 200 else judge_whole
                problem, had_begun = judge(prompt, status, answer.decode())
        except TimeoutError:
            problem = "no answer in time"
        except OSError as error:
            problem = f"the router's connection broke: {error!r}"
        end = time.monotonic()
        self.outcomes.append(Outcome(request_id, begin, end, problem, had_begun, has_left))

    async def _infect(self, group: asyncio.TaskGroup) -> None:
        """Let one replica after the other fall ill, by every manner in turn."""
        manners = ["kill", "stop", *MANNERS]
        while True:
            self.draws.shuffle(manners)
            for manner in manners:
                while not (choices := self._may_fall_ill(manner)):
                    await asyncio.sleep(0.05)
                replica = self.draws.choice(choices)
                replica.sick.append((time.monotonic(), float("inf")))
                self.manners[manner] += 1
                group.create_task(self._suffer(replica, manner))
                await asyncio.sleep(EVENT_SECONDS)

    def _may_fall_ill(self, manner: str) -> list[Replica]:
        well = [replica for replica in self.replicas if not replica.is_sick]
        return well if len(well) > LEAST_WELL else []

    async def _suffer(self, replica: Replica, manner: str) -> None:
        seconds = self.draws.uniform(*SICK_SECONDS)
        match manner:
            case "kill":
                replica.kill()
                await asyncio.sleep(seconds)
                replica.process = start_replica(replica.port).process
            case "stop":
                os.kill(replica.process.pid, signal.SIGSTOP)
                await asyncio.sleep(seconds)
                os.kill(replica.process.pid, signal.SIGCONT)
            case _:
                await self._behave(replica, manner)
                await asyncio.sleep(seconds)
                await self._behave(replica, "well")
        since, _ = replica.sick[-1]
        replica.sick[-1] = (since, time.monotonic())

    async def _behave(self, replica: Replica, manner: str) -> None:
        async with httpx.AsyncClient(base_url=replica.url) as direct:
            assert (await direct.post("/chaos", content=manner)).status_code == 200

    def unexcused(self, traffic: dict[str, str | None]) -> list[Outcome]:
        """Return the failures that should not have been.

        Args:
            traffic: The replica that the router's log names, by request id.
        """
        return [one for one in self.outcomes if one.problem and not self._is_excused(one, traffic)]

    def _is_excused(self, one: Outcome, traffic: dict[str, str | None]) -> bool:
        if one.had_begun and one.problem == "broke":
            by = next(each for each in self.replicas if each.url == traffic[one.request_id])
            return not by.was_well(one.begin, one.end)
        return not any(each.was_well(one.begin, one.end) for each in self.replicas)


def judge_whole(prompt: str, status: int, answer: str) -> tuple[str | None, bool]:
    """Return what is wrong with an answer, and False: no stream had begun."""
    if status != 200:
        return f"{status} {answer}", False
    text = json.loads(answer)["choices"][0]["text"]
    return (None if text == "".join(answer_words(prompt)) else f"wrong: {text}"), False


def judge_stream(prompt: str, status: int, answer: str) -> tuple[str | None, bool]:
    """Return what is wrong with a stream, and whether it had begun and was told to be broken."""
    *events, last = answer.removesuffix("\n\n").split("\n\n")
    if last != "data: [DONE]":
        is_told = '"error"' in last
        return ("broke" if is_told else f"silent end: {answer[-200:]!r}"), is_told
    words = [json.loads(event[6:])["choices"][0]["text"] for event in events]
    return (None if words == answer_words(prompt) else f"wrong: {words}"), True


def write_config(folder: Path, replicas: list[Replica], health: dict[str, float]) -> Path:
    (folder / "replica.key").write_text(REPLICA_KEY)
    limits = {"requests_per_minute": 10**6, "budgets": [{"per": "day", "usd": 1e6}]}
    entries = [{"url": each.url, "api_key_file": str(folder / "replica.key")} for each in replicas]
    prices = {"price_input_usd_per_million": 1.0, "price_output_usd_per_million": 1.0}
    settings = {
        "port": 0,
        "models": [{"name": MODEL, "replicas": entries, **prices}],
        "governance": write_governance(folder, {CLIENT_KEY: {"name": "chaos", **limits}}),
        "traffic_log": str(folder / "traffic.jsonl"),
        "health": health,
    }
    path = folder / "router.yaml"
    path.write_text(json.dumps(settings))
    return path


@pytest.mark.parametrize(
    ("seconds", "health"),
    [
        pytest.param(10, {"interval_seconds": 1, "timeout_seconds": 1}, id="short"),
        pytest.param(120, {}, id="long", marks=pytest.mark.soak),
    ],
)
def test_no_request_fails_that_a_replica_could_have_served(start, tmp_path, seconds, health):
    """Whatever some replicas do, the others' health decides, and nothing secret is written."""
    replicas = [start_replica() for _ in range(NUM_REPLICAS)]
    try:
        config = write_config(tmp_path, replicas, health)
        _, url = start("router", "route", str(config), "--verbose")
        chaos, metrics = asyncio.run(wreak(url, replicas, seconds))
        text = (tmp_path / "traffic.jsonl").read_text()
        lines = [json.loads(line) for line in text.splitlines()]
    finally:
        for replica in replicas:
            replica.kill()
    problems = Counter((one.problem or "right")[:60] for one in chaos.outcomes)
    logger.info(
        "rate=%.0f/s manners=%s outcomes=%s", chaos.rate, dict(chaos.manners), dict(problems)
    )
    assert len(chaos.outcomes) == round(RATE * seconds)
    assert set(chaos.manners) == {"kill", "stop", *MANNERS} or seconds < 60
    assert chaos.unexcused({line["request_id"]: line["replica"] for line in lines}) == []
    assert problems["right"] > 0.9 * len(chaos.outcomes)
    stayed = {one.request_id for one in chaos.outcomes if not one.has_left}
    assert stayed <= {line["request_id"] for line in lines}
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    written["metrics"] = metrics.encode()
    for name in ("replica.key", "admin.key"):
        del written[name]
    assert {"router.log", "traffic.jsonl", "usage.sqlite", "metrics"} <= set(written)
    for name, content in written.items():
        for secret in (CLIENT_KEY, REPLICA_KEY, ADMIN, SECRET, "shared words"):
            assert secret.encode() not in content, f"{secret} stands in {name}"


async def wreak(url: str, replicas: list[Replica], seconds: float) -> tuple[Chaos, str]:
    """Return what happened, and the router's metrics at the end."""
    host, _, port = url.removeprefix("http://").partition(":")
    client = PlainClient(host, int(port), key=CLIENT_KEY)
    chaos = Chaos(client, replicas)
    await chaos.run(seconds)
    client.close()
    async with httpx.AsyncClient(base_url=url, headers=bearer(ADMIN)) as direct:
        metrics = await direct.get("/metrics")
        assert metrics.status_code == 200
        return chaos, metrics.text
