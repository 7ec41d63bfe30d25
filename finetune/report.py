"""The table at the end of a run."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from finetune.adapters import ClientLosses, Manifest
from finetune.held_out import mean_losses, worst_domain


def print_result(manifest: Manifest, console: Console, *, adapter: Path) -> None:
    """Print what a run gave, its losses where clients could be compared, and where it is."""
    if manifest.clients:
        console.print(loss_table(manifest))
    console.print(f"adapter: {adapter}", soft_wrap=True)


def loss_table(manifest: Manifest) -> Table:
    """Return base and adapter losses by client, their mean and the worst domain."""
    table = Table(title=f"held-out loss, nats a token, after {manifest.rounds} rounds")
    table.add_column("client")
    for heading in ("tokens", "base", "adapter", "change"):
        table.add_column(heading, justify="right")
    for client in manifest.clients:
        table.add_row(*_row(client.name, client))
    table.add_section()
    table.add_row(*_row("mean", mean_losses(manifest.clients)))
    worst = worst_domain(manifest.clients)
    table.add_row(*_row(f"worst: {worst.name}", worst))
    return table


def _row(name: str, losses: ClientLosses) -> list[str]:
    change = losses.adapter_loss - losses.base_loss
    numbers = (f"{losses.base_loss:.4f}", f"{losses.adapter_loss:.4f}", f"{change:+.4f}")
    return [name, f"{losses.held_out_tokens:,}", *numbers]
