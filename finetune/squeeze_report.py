"""The table of a squeeze: modules of one name together."""

from collections.abc import Sequence
from math import hypot

from rich.table import Table

from finetune.squeeze_folder import SqueezedModule


def squeeze_table(modules: Sequence[SqueezedModule]) -> Table:
    """Return ranks, kept energy, relative error and bytes, by the last word of the modules' names."""
    table = Table(title="adapter before and after")
    table.add_column("modules")
    for heading in ("count", "rank", "kept energy", "error", "bytes"):
        table.add_column(heading, justify="right")
    kinds = dict.fromkeys(_kind(module) for module in modules)
    for kind in kinds:
        table.add_row(*_row(kind, [module for module in modules if _kind(module) == kind]))
    table.add_section()
    table.add_row(*_row("all", modules))
    return table


def _row(kind: str, modules: Sequence[SqueezedModule]) -> list[str]:
    norm = hypot(*(module.norm for module in modules))
    error = hypot(*(module.error for module in modules)) / norm if norm > 0 else 0.0
    before = sum(module.bytes_before for module in modules)
    after = sum(module.bytes_after for module in modules)
    ranks = _span([m.rank_before for m in modules]), _span([m.rank_after for m in modules])
    return [
        kind,
        f"{len(modules)}",
        " → ".join(ranks),
        # What is lost is orthogonal to what is kept, so their energies add up to the whole.
        f"{1 - error**2:.4%}",
        f"{error:.3g}",
        f"{before:,} → {after:,}",
    ]


def _span(ranks: Sequence[int]) -> str:
    least, most = min(ranks), max(ranks)
    return f"{least}" if least == most else f"{least}-{most}"


def _kind(module: SqueezedModule) -> str:
    return module.name.rpartition(".")[2]
