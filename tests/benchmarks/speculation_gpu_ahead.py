"""What pre-drafting gains where the draft is on a GPU: chains of a real draft, on against off.

The draft's forwards are real and queued on its device; what it says is replaced by a text known from
a run without drafts, right with a set chance at each place (`replayed_ahead.py`). The rounds of on and
off verify the same chains.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from benchmarks.replayed_ahead import ReplayedAhead
from benchmarks.set_acceptance import rates_for
from rich.table import Table

from serving.engine.apart_drafter import ApartChainDrafter
from serving.engine.drafter import Drafter
from serving.engine.model import TokenModel
from serving.engine.pre_drafting import PreDrafter

SECOND_ACCEPTANCE = 0.4
"""Chance of the second likeliest token where the first is refused: set."""


class Rated(Protocol):
    """A decoded text."""

    tokens: tuple[int, ...]

    @property
    def tokens_per_second(self) -> float:
        """Its rate."""


@dataclass(frozen=True, slots=True)
class AheadRow:
    """One stated acceptance."""

    tau: float
    """Tokens a round of a whole chain, as stated."""
    off_tokens_per_second: float
    on_tokens_per_second: float
    gain: float
    ready: float
    """Share of the drafts that were ready."""
    late: int
    """Rounds that ended before drafting ahead did."""


def ahead_rows(
    draft: TokenModel,
    decode: Callable[[Drafter], Rated],
    texts: Mapping[str, Sequence[int]],
    *,
    taus: Sequence[float],
    depth: int,
    device: str,
) -> list[AheadRow]:
    """Measure on and off for each acceptance.

    Args:
        draft: The model, on its device.
        decode: Decodes the text with a drafter.
        texts: Prompt and greedy text, by request.
        taus: Tokens a round, by equal acceptance at every depth.
        depth: Of the chains.
        device: The draft's.

    Raises:
        AssertionError: If on and off differ in a token, or the thread failed.
    """
    synchronize = None
    if device.startswith("cuda"):
        synchronize = torch.cuda.current_stream(torch.device(device)).synchronize

    def replayed(tau: float) -> ReplayedAhead:
        return ReplayedAhead(
            ApartChainDrafter(draft),
            texts,
            acceptance=rates_for(tau, depth)[0],
            second_acceptance=SECOND_ACCEPTANCE,
            seed=7,
        )

    rows = []
    for tau in taus:
        off = decode(replayed(tau))
        ahead = PreDrafter(replayed(tau), synchronize=synchronize)
        on = decode(ahead)
        ahead.close()
        counts = ahead.counts
        assert counts.failures == 0, "drafting ahead failed; see the log"
        length = min(len(on.tokens), len(off.tokens))
        assert on.tokens[:length] == off.tokens[:length], "drafting ahead changed a token"
        rows.append(
            AheadRow(
                tau,
                off.tokens_per_second,
                on.tokens_per_second,
                on.tokens_per_second / off.tokens_per_second,
                counts.used / max(counts.asked, 1),
                counts.late,
            )
        )
    return rows


def ahead_table(rows: Sequence[AheadRow], *, depth: int) -> Table:
    """Return the rows as a table."""
    table = Table(
        title=f"pre-drafting on against off, chains of {depth}; acceptance is set, not earned, that "
        f"of the second likeliest token {SECOND_ACCEPTANCE:g}"
    )
    for heading in ("tau", "off tokens/s", "on tokens/s", "gain", "ready", "late rounds"):
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(
            f"{row.tau:g}",
            f"{row.off_tokens_per_second:.3g}",
            f"{row.on_tokens_per_second:.3g}",
            f"{row.gain:.2f}x",
            f"{row.ready:.0%}",
            str(row.late),
        )
    return table
