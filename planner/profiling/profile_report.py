"""A profile as tables."""

from rich import box
from rich.console import Console
from rich.table import Table

from planner.profiling.profile import Cell, LatencySummary, Profile, Run
from planner.profiling.profile_reading import is_saturated
from planner.workloads.slo import Statistic


def print_profile(profile: Profile, console: Console) -> None:
    """Print every run, size by size."""
    about = [profile.model, f"{profile.gpus_per_replica} x {profile.gpu}"]
    about += [word for word in (profile.engine, profile.engine_version, profile.dtype) if word]
    table = Table(title=f"{', '.join(about)}, {profile.date}", box=box.SIMPLE)
    for name in ("in", "out", "offered", "achieved", "n", "TTFT", "TPOT", ""):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    for inputs, row in zip(profile.input_tokens, profile.cells, strict=True):
        for outputs, cell in zip(profile.output_tokens, row, strict=True):
            for line in _lines(cell):
                table.add_row(f"{inputs:,}", f"{outputs:,}", *line)
    table.caption = "requests/s, requests; TTFT and TPOT in ms, median / 95th percentile"
    console.print(table)
    if profile.is_simulated:
        console.print("simulated: no claim about cost may rest on it")
    if profile.taken_under is not None:
        limits = profile.taken_under.model_dump(exclude_none=True)
        words = ", ".join(f"{name} {value}" for name, value in limits.items())
        console.print(f"picked under the target {words}; valid for no other", soft_wrap=True)


def _lines(cell: Cell) -> list[tuple[str, ...]]:
    if cell.thresholded is not None:
        rate = cell.thresholded.requests_per_second
        return [("", "-" if rate is None else f"{rate:.4g}", "", "", "", "picked")]
    return [_line(run) for run in cell.runs]


def _line(run: Run) -> tuple[str, ...]:
    offered = run.offered_requests_per_second
    remarks = [f"{run.num_failures:,} failed"] if run.num_failures else []
    remarks += ["closed loop"] if offered is None else ["saturated"] if is_saturated(run) else []
    return (
        "-" if offered is None else f"{offered:.4g}",
        f"{run.achieved_requests_per_second:.4g}",
        f"{run.num_requests:,}",
        _shown(run.ttft),
        _shown(run.tpot or run.token_gap),
        ", ".join(remarks),
    )


def _shown(latency: LatencySummary | None) -> str:
    """Return median and 95th percentile; where that is not known, the highest that is."""
    if latency is None:
        return "-"
    known = [name for name in ("p95", "p99", "p90", "mean") if name in latency.known()]
    shown: list[Statistic] = ["p50", *known[:1]]
    values = {name: latency.at(name) for name in shown}
    return "/".join(
        f"{float(f'{value * 1e3:.3g}'):,g}" + ("" if name in ("p50", "p95") else f" ({name})")
        for name, value in values.items()
        if value is not None
    )
