"""This machine: a script that starts every replica and the router on free loopback ports.

GPUs are given out in the plan's order, by index. `fleet.json` holds the same commands for programs.
"""

import shlex
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from planner.render.dashboard import dashboard_text
from planner.render.fleet import Pool, RenderedFleet
from planner.render.options import Files, RenderOptions
from planner.render.readme import readme
from planner.render.router_file import router_files
from planner.render.scrape import prometheus_text
from planner.render.text import json_text

HOST = "127.0.0.1"

_HOW = """
    sh PATH_OF_THIS_FOLDER/start.sh    # logs below logs/; Ctrl-C ends everything
"""

_REMARKS = (
    "The ports were free when this was rendered; render again if one is taken since",
    "GPUs are taken by index in the order of the script: check that they are the planned ones "
    "(`nvidia-smi -L`)",
    "Folders of models are relative to where the script is started",
    "Replicas of vLLM need `vllm` on the PATH; everything else runs with the Motley that rendered this",
)

_VISIBLE = {"nvidia": "CUDA_VISIBLE_DEVICES", "amd": "HIP_VISIBLE_DEVICES"}


@dataclass(frozen=True, slots=True)
class Process:
    """One replica, or the router, as it is started here."""

    name: str
    url: str
    command: tuple[str, ...]
    environment: dict[str, str]

    @property
    def address(self) -> str:
        """Host and port."""
        return self.url.removeprefix("http://")


def render_local(fleet: RenderedFleet, options: RenderOptions) -> Files:
    """Return the start script, the commands as JSON, the router's file and the notes."""
    num_replicas = sum(pool.row.replicas for pool in fleet.pools)
    router_port, *ports = options.ports(num_replicas + 1)
    processes = dict(_processes(fleet, ports, options))
    urls = {name: [each.url for each in started] for name, started in processes.items()}
    started = [each for pool in processes.values() for each in pool]
    router = _router(router_port, options)
    content = {
        "plan": fleet.plan_id,
        "router": asdict(router),
        "replicas": [asdict(each) for each in started],
    }
    files = router_files(fleet, urls, host=HOST, port=router_port, traffic_log="traffic.jsonl")
    return files | {
        "start.sh": _script(fleet, started, router),
        "fleet.json": json_text(content),
        "prometheus.yml": prometheus_text(
            fleet,
            {name: [each.address for each in pool] for name, pool in processes.items()},
            router=router.address,
        ),
        "grafana/motley.json": dashboard_text(fleet),
        "README.md": readme(fleet, "this machine", _HOW, *_REMARKS),
    }


def _processes(
    fleet: RenderedFleet, ports: list[int], options: RenderOptions
) -> Iterator[tuple[str, tuple[Process, ...]]]:
    free_ports, next_gpu = iter(ports), 0
    for pool in fleet.pools:
        started = []
        for number in range(pool.row.replicas):
            gpus = range(next_gpu, next_gpu + pool.row.devices_per_replica)
            started.append(_process(pool, number, next(free_ports), gpus, options))
            next_gpu += len(gpus) if pool.vendor in _VISIBLE else 0
        yield pool.name, tuple(started)


def _process(pool: Pool, number: int, port: int, gpus: range, options: RenderOptions) -> Process:
    variable = _VISIBLE.get(pool.vendor)
    program = options.motley_command if pool.engine == "motley" else (pool.engine,)
    return Process(
        name=f"{pool.name}-{number}",
        url=f"http://{HOST}:{port}",
        command=(*program, *pool.command[1:], "--host", HOST, "--port", str(port)),
        environment={variable: ",".join(map(str, gpus))} if variable else {},
    )


def _router(port: int, options: RenderOptions) -> Process:
    # The router runs inside the folder, where its file and its traffic log are.
    command = (*options.motley_command, "route", "router.yaml")
    return Process("router", f"http://{HOST}:{port}", command, {})


def _script(fleet: RenderedFleet, processes: list[Process], router: Process) -> str:
    lines = [
        "#!/bin/sh",
        f"# Plan {fleet.plan_id}: every replica in the background, the router in front.",
        "set -eu",
        'here=$(cd "$(dirname "$0")" && pwd)',
        'mkdir -p "$here/logs"',
        # Only what this script has started is ended, by its id.
        "started=''",
        "trap 'kill $started 2>/dev/null || true; wait' EXIT",
        "trap 'exit 130' INT",
        "trap 'exit 143' TERM",
    ]
    for each in processes:
        settings = [f"{name}={value}" for name, value in each.environment.items()]
        words = shlex.join([*(["env", *settings] if settings else []), *each.command])
        lines += [f'{words} > "$here/logs/{each.name}.log" 2>&1 &', 'started="$started $!"']
    lines += [
        f'(cd "$here" && exec {shlex.join(router.command)}) &',
        'started="$started $!"',
        'wait "$!"',
        "",
    ]
    return "\n".join(lines)
