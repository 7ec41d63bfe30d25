"""The table at the end of a run."""

from collections.abc import Sequence

from rich.table import Table

from finetune.adapters import ClientLosses, Manifest


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


def mean_losses(clients: Sequence[ClientLosses]) -> ClientLosses:
    """Return the plain mean over clients: every domain counts the same."""
    return ClientLosses(
        name="mean",
        held_out_tokens=sum(client.held_out_tokens for client in clients),
        base_loss=sum(client.base_loss for client in clients) / len(clients),
        adapter_loss=sum(client.adapter_loss for client in clients) / len(clients),
    )


def worst_domain(clients: Sequence[ClientLosses]) -> ClientLosses:
    """Return the client that the adapter helps least, or harms most."""
    return max(clients, key=lambda client: client.adapter_loss - client.base_loss)


def _row(name: str, losses: ClientLosses) -> list[str]:
    change = losses.adapter_loss - losses.base_loss
    numbers = (f"{losses.base_loss:.4f}", f"{losses.adapter_loss:.4f}", f"{change:+.4f}")
    return [name, f"{losses.held_out_tokens:,}", *numbers]
