"""The page the demo ends with."""

from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from planner.demo.measure import Speed


@dataclass(frozen=True, slots=True)
class Summary:
    """What the tour found; documents are as their owners wrote them."""

    plan: dict[str, Any]
    plain: Speed
    drafted: Speed
    manifest: dict[str, Any]
    endpoint: str
    models: tuple[str, ...]
    seconds: float

    @property
    def is_lossless(self) -> bool:
        """Whether both replicas wrote the same tokens."""
        return self.plain.texts == self.drafted.texts


def show(summary: Summary, console: Console) -> None:
    """Print the summary."""
    table = Table(title="Motley's demo", show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column()
    table.add_row("plan", _plan(summary.plan))
    table.add_row("tokens a second", _speed(summary))
    table.add_row("acceptance length", f"{summary.drafted.acceptance_length:.2f} tokens a round")
    same = "yes, token for token" if summary.is_lossless else "NO: please report this"
    table.add_row("same text either way", same)
    table.add_section()
    for client in summary.manifest["clients"]:
        table.add_row(f"loss on {client['name']}", _loss(client))
    table.add_section()
    table.add_row("endpoint", f"{summary.endpoint} answered as {' and '.join(summary.models)}")
    table.add_row("time", f"{summary.seconds:.0f} s")
    console.print()
    console.print(table)


def _plan(plan: dict[str, Any]) -> str:
    mix = " + ".join(f"{row['replicas']} x {row['offer']}" for row in plan["replicas"])
    return f"{mix} = ${plan['cost_usd_per_hour']:.2f}/h ({plan['status']}, {plan['latency']})"


def _speed(summary: Summary) -> str:
    plain, drafted = summary.plain.tokens_per_second, summary.drafted.tokens_per_second
    return f"{plain:.0f} alone, {drafted:.0f} with drafting ({drafted / plain:.2f}x)"


def _loss(client: dict[str, Any]) -> str:
    before, after = client["base_loss"], client["adapter_loss"]
    return f"{before:.3f} -> {after:.3f} nats a token ({after - before:+.3f}, held-out text)"
