"""The demo's tour: plan, serve, route, ask, fine-tune, publish, ask again, sum up."""

import json
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from planner.demo.fleet import DRAFTING, MODEL, PLAIN, demo_plan
from planner.demo.measure import Speed, loopback_client, single_stream_speed
from planner.demo.places import example_configurations
from planner.demo.processes import Server, following, run_to_end
from planner.demo.summary import Summary, show
from planner.errors import DemoError
from planner.render.folder import write_folder
from planner.render.options import RenderOptions
from planner.render.targets import render

ADAPTER = "tiny-federated"
QUESTION = "Return the sum of the values in the list."

_START_SECONDS = 120.0
_PLAN_SECONDS = 60.0
_TRAINING_SECONDS = 600.0
_PUBLISH_SECONDS = 150.0


@dataclass(frozen=True, slots=True)
class _Fleet:
    """The servers of the tour."""

    drafting_url: str
    plain_url: str
    router_url: str


class Tour:
    """Runs each part of Motley as a user would, in one folder, with everything on loopback."""

    def __init__(self, models: Path, folder: Path, console: Console) -> None:
        """Tour with the target and draft below `models`; logs and results go to `folder`."""
        self._models = models
        self._folder = folder
        self._console = console
        self._examples = example_configurations()

    def run(self, *, keep: bool = False) -> Summary:
        """Do everything and return what is worth showing; all processes are stopped at the end.

        Args:
            keep: Leave the endpoint up until Ctrl-C.

        Raises:
            DemoError: If a part fails; the message names its log.
        """
        start = time.monotonic()
        with ExitStack() as servers:
            plan = self._plan()
            fleet = self._serve(servers)
            plain = self._measure("without drafting", fleet.plain_url)
            drafted = self._measure("with drafting", fleet.drafting_url)
            self._ask(fleet.router_url, MODEL)
            manifest = self._finetune()
            self._publish(fleet.router_url)
            self._ask(fleet.router_url, ADAPTER)
            summary = Summary(
                plan=plan,
                plain=plain,
                drafted=drafted,
                manifest=manifest,
                endpoint=f"{fleet.router_url}/v1",
                models=(MODEL, ADAPTER),
                seconds=time.monotonic() - start,
            )
            show(summary, self._console)
            if keep:
                self._wait(fleet.router_url)
        return summary

    def _plan(self) -> dict[str, object]:
        with self._step("plan: the cheapest fleet for Mélange's example"):
            output = self._folder / "plan.json"
            file = self._examples / "fleet" / "melange-example.yaml"
            words = ["plan", "fleet", str(file), "--output", str(output)]
            run_to_end(words, log=self._folder / "plan.log", timeout_seconds=_PLAN_SECONDS)
        plan: dict[str, object] = json.loads(output.read_text())
        return plan

    def _serve(self, servers: ExitStack) -> _Fleet:
        folder = self._folder / "fleet"
        write_folder(folder, render(demo_plan(self._models), "local", RenderOptions()))
        fleet = json.loads((folder / "fleet.json").read_text())
        with self._step("serve: two replicas, one drafts, one does not"):
            started = {
                replica["name"]: self._start(servers, replica, folder=None)
                for replica in fleet["replicas"]
            }
            urls = {name: server.wait_for_url(_START_SECONDS) for name, server in started.items()}
        with self._step("route: one endpoint over both"):
            router = self._start(servers, fleet["router"], folder=folder)
            router_url = router.wait_for_url(_START_SECONDS)
        return _Fleet(urls[f"{MODEL}-{DRAFTING}-0"], urls[f"{MODEL}-{PLAIN}-0"], router_url)

    def _start(self, servers: ExitStack, process: dict[str, Any], *, folder: Path | None) -> Server:
        log = self._folder / f"{process['name']}.log"
        return servers.enter_context(Server(process["command"], log=log, folder=folder))

    def _measure(self, words: str, url: str) -> Speed:
        with self._step(f"measure: tokens a second {words}"):
            return single_stream_speed(url, MODEL)

    def _ask(self, router_url: str, model: str) -> None:
        """Stream one chat answer through the router onto the console."""
        self._console.print(f"\n[bold]ask {model}[/bold] through {router_url}: {QUESTION}")
        with loopback_client(router_url) as client:
            stream = client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": QUESTION}],
                max_tokens=64,
                temperature=0,
                stream=True,
            )
            for chunk in stream:
                if chunk.choices and chunk.choices[0].delta.content:
                    self._console.print(
                        chunk.choices[0].delta.content, end="", markup=False, style="green"
                    )
        self._console.print()

    def _finetune(self) -> dict[str, object]:
        job = yaml.safe_load((self._examples / "finetune" / "three-clients.yaml").read_text())
        job |= {"model": str(self._models / "target"), "output": str(self._folder / "run")}
        path = self._folder / "job.yaml"
        path.write_text(yaml.safe_dump(job))
        words = f"finetune: {len(job['clients'])} clients, {job['rounds']} rounds, text stays home"
        metrics = self._folder / "run" / "metrics.jsonl"
        with self._step(words), following(metrics, self._tell_round):
            run_to_end(
                ["finetune", "run", str(path)],
                log=self._folder / "finetune.log",
                timeout_seconds=_TRAINING_SECONDS,
            )
        manifest: dict[str, object] = json.loads(
            (self._folder / "run" / "adapter" / "motley.json").read_text()
        )
        return manifest

    def _tell_round(self, line: str) -> None:
        """Print one line of a run's metrics."""
        record = json.loads(line)
        loss = statistics.fmean(record["loss"].values())
        self._console.print(
            f"  round {record['round']}: training loss {loss:.3f} ({record['seconds']:.0f} s)"
        )

    def _publish(self, router_url: str) -> None:
        adapter = str(self._folder / "run" / "adapter")
        words = ["finetune", "publish", adapter, "--endpoint", router_url, "--name", ADAPTER]
        with self._step(f"publish: {ADAPTER} on every replica, no restart"):
            run_to_end(words, log=self._folder / "publish.log", timeout_seconds=_PUBLISH_SECONDS)

    def _wait(self, router_url: str) -> None:
        self._console.print(f"{router_url}/v1 stays up until Ctrl-C")
        with suppress(KeyboardInterrupt):
            signal.pause()

    @contextmanager
    def _step(self, words: str) -> Iterator[None]:
        start = time.monotonic()
        with self._console.status(words):
            try:
                yield
            except DemoError:
                self._console.print(f"[red]failed[/red] {words}")
                raise
        self._console.print(f"[green]done[/green] {words} ({time.monotonic() - start:.1f} s)")
