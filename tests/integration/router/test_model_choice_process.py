"""`model: "auto"` through `motley route` as processes: one worker, and two."""

import asyncio
import json
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from fakes import FakeReplica
from keys_files import ADMIN, bearer
from route_process import running
from small_predictor import CODE_PROMPT, POEM_PROMPT, small_predictor

from router.features_log import read_lines
from router.grades import read_grades
from router.prediction.graded_traffic import read_graded_traffic
from router.prediction.predictor_file import write_predictor

CHAT = "/v1/chat/completions"
CHEAPEST = {"x-motley-goals": "cheapest=5"}


class Router:
    """A running router that picks between a coder, who is cheap, and a poet."""

    def __init__(
        self, folder: Path, process: asyncio.subprocess.Process, url: str, num_workers: int
    ) -> None:
        self.folder = folder
        self.process = process
        self.url = url
        self.num_workers = num_workers
        self.request_ids: list[str] = []

    async def ask(self, text: str, *, headers: dict[str, str] | None = None) -> tuple[str, str]:
        """Ask `auto` over a connection of its own; return the model and why it was picked."""
        body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
        async with httpx.AsyncClient(base_url=self.url, timeout=60) as client:
            answer = await client.post(CHAT, json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        self.request_ids.append(answer.headers["x-request-id"])
        return answer.headers["x-motley-model"], answer.headers["x-motley-reason"]

    async def ask_often(self, text: str, **more: dict[str, str]) -> set[tuple[str, str]]:
        """Ask the same several times, so that every worker may get some; return what was told."""
        return set(await asyncio.gather(*[self.ask(text, **more) for _ in range(6)]))

    async def reload(self, outcome: str) -> None:
        """Send SIGHUP and wait until every worker has told the outcome."""
        self.process.send_signal(signal.SIGHUP)
        assert self.process.stderr is not None
        num_told = 0
        async with asyncio.timeout(60):
            while num_told < self.num_workers:
                line = (await self.process.stderr.readline()).decode()
                assert line, f"the process ended without {outcome!r}"
                num_told += f"{outcome} cause=SIGHUP" in line

    async def picks(self) -> dict[tuple[str, str], float]:
        """Return what all workers have counted, by model and reason."""
        text, wanted = "", f"motley_router_workers_seen {float(self.num_workers)}"
        async with (
            httpx.AsyncClient(base_url=self.url, timeout=60) as client,
            asyncio.timeout(60),
        ):
            while wanted not in text and (self.num_workers > 1 or not text):
                text = (await client.get("/metrics")).text  # a worker has a second to tell its own
        found: dict[tuple[str, str], float] = {}
        pattern = r'motley_router_choices_total\{model="(\w+)",pool="auto",reason="(\w+)".*\} (\S+)'
        for model, reason, value in re.findall(pattern, text):
            found[model, reason] = found.get((model, reason), 0) + float(value)
        return found


@asynccontextmanager
async def opened(
    folder: Path, coder: FakeReplica, poet: FakeReplica, num_workers: int
) -> AsyncIterator[Router]:
    """Yield the router once it listens."""
    write_predictor(small_predictor(), folder / "predictor.npz")
    (folder / "admin.key").write_text(ADMIN)
    models = [
        {
            "name": replica.model,
            "replicas": [{"url": replica.url}],
            "price_input_usd_per_million": price,
            "price_output_usd_per_million": price,
        }
        for replica, price in ((coder, 0.1), (poet, 0.9))
    ]
    content = {
        "port": 0,
        "workers": num_workers,
        "models": models,
        "model_choice": {
            "predictor": str(folder / "predictor.npz"),
            "features_log": str(folder / "features.jsonl"),
            "grades": str(folder / "grades.jsonl"),
            "flags": {"max_weight": 5},
        },
        "governance": {"admin_key_file": str(folder / "admin.key")},
    }
    path = folder / "router.yaml"
    path.write_text(json.dumps(content))
    async with running(path) as (process, url):
        yield Router(folder, process, url, num_workers)
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 30) == 0
        assert process.stderr is not None
        assert b"Traceback" not in await process.stderr.read()


@pytest.mark.parametrize("num_workers", [1, 2])
async def test_prompt_header_and_flag_decide(tmp_path: Path, num_workers: int) -> None:
    """Every worker picks by the prompt, goals re-rank, and no replica sees a flag."""
    async with (
        FakeReplica(model="coder") as coder,
        FakeReplica(model="poet") as poet,
        opened(tmp_path, coder, poet, num_workers) as router,
    ):
        best = "best_predicted"
        assert await router.ask_often(CODE_PROMPT) == {("coder", best)}
        assert await router.ask_often(POEM_PROMPT) == {("poet", best)}
        assert await router.ask_often(POEM_PROMPT, headers=CHEAPEST) == {("coder", best)}
        flagged = f"{POEM_PROMPT} [Flag: cheapest=5]"
        assert await router.ask_often(flagged) == {("coder", best)}
        over = {"x-motley-goals": "cheapest=0"}
        assert await router.ask_often(flagged, headers=over) == {("poet", best)}
        assert await router.picks() == {("coder", best): 18, ("poet", best): 12}
    asked = [one.fields["messages"] for one in (*coder.requests, *poet.requests)]
    assert len(asked) == 30
    assert "Flag" not in json.dumps(asked)
    lines = {line.request_id: line for line in read_lines(tmp_path / "features.jsonl")}
    assert set(lines) == set(router.request_ids)
    assert len(router.request_ids) == 30
    goals = [dict(lines[name].goals) for name in router.request_ids]
    assert goals == [{}] * 12 + [{"cheapest": 5.0}] * 12 + [{"cheapest": 0.0}] * 6


@pytest.mark.parametrize("num_workers", [1, 2])
async def test_a_signal_puts_another_predictor_in_force(tmp_path: Path, num_workers: int) -> None:
    """In every worker; a file that cannot be read changes nothing in any of them."""
    path = tmp_path / "predictor.npz"
    async with (
        FakeReplica(model="coder") as coder,
        FakeReplica(model="poet") as poet,
        opened(tmp_path, coder, poet, num_workers) as router,
    ):
        assert {model for model, _ in await router.ask_often(POEM_PROMPT)} == {"poet"}
        path.write_bytes(b"broken")
        await router.reload("reload refused")
        assert {model for model, _ in await router.ask_often(POEM_PROMPT)} == {"poet"}
        write_predictor(replace(small_predictor(), models=("poet", "coder")), path)
        await router.reload("reloaded")
        assert {model for model, _ in await router.ask_often(POEM_PROMPT)} == {"coder"}
        assert {model for model, _ in await router.ask_often(CODE_PROMPT)} == {"poet"}
    assert len(list(read_lines(tmp_path / "features.jsonl"))) == 24


@pytest.mark.parametrize("num_workers", [1, 2])
async def test_grades_meet_their_lines(tmp_path: Path, num_workers: int) -> None:
    """Grades go to any worker, whichever wrote the line; together they are data to train from."""
    async with (
        FakeReplica(model="coder") as coder,
        FakeReplica(model="poet") as poet,
        opened(tmp_path, coder, poet, num_workers) as router,
    ):
        picked = [await router.ask(text) for text in (CODE_PROMPT, POEM_PROMPT) * 4]
        for name, (model, _) in zip(router.request_ids, picked, strict=True):
            grade = {"request_id": name, "model": model, "score": 0.5}
            async with httpx.AsyncClient(base_url=router.url, timeout=60) as client:
                graded = await client.post("/admin/grades", json=[grade], headers=bearer(ADMIN))
            assert graded.json() == {"accepted": 1}
    grades = read_grades(tmp_path / "grades.jsonl")
    assert {grade.request_id for grade in grades} == set(router.request_ids)
    prompts = read_graded_traffic(tmp_path / "features.jsonl", tmp_path / "grades.jsonl")
    assert (len(prompts), set(prompts.models)) == (8, {"coder", "poet"})
