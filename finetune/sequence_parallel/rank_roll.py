"""Which ranks of a job live, by their heartbeats and by what the kernel says of neighbours.

A rank whose beat does not change is dead, busy, or behind a slow network. On its own machine the
kernel knows which: a process that is gone is dead at once, one that is stopped after the patience,
and for one that merely holds the interpreter its neighbours beat. A rank without a neighbour that
speaks for it is dead after twice the patience.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune.sequence_parallel.process_state import ProcessState

DONE = "done"
"""Last beat of a rank that has ended as it should."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a rank runs: `host` is equal for those that see each other's processes."""

    host: str
    host_name: str
    process_id: int


class RankRoll:
    """What one rank knows of the others.

    Attributes:
        neighbours: Other ranks of its machine.
    """

    def __init__(
        self, rank: int, places: Sequence[Place], *, patience_seconds: float, now: float
    ) -> None:
        """Take every rank for living now."""
        self._rank = rank
        self._places = places
        self._patience = patience_seconds
        self._beats = [""] * len(places)
        self._changed = [now] * len(places)
        self._looked = now
        own = places[rank].host
        self.neighbours = [r for r, p in enumerate(places) if p.host == own and r != rank]

    def hear(self, beats: Sequence[str], *, now: float) -> None:
        """Note the latest beat of every rank."""
        for rank, beat in enumerate(beats):
            if beat != self._beats[rank]:
                self._beats[rank], self._changed[rank] = beat, now

    def notice_sleep(self, *, now: float) -> bool:
        """Start all waits anew if this rank itself was asleep since it last looked, and say so.

        Who did not look, because all were suspended or something held the interpreter, cannot judge
        how long others were silent.
        """
        was_asleep = now - self._looked > self._patience / 2
        self._looked = now
        if was_asleep:
            self._changed = [now] * len(self._changed)
        return was_asleep

    def others_are_done(self) -> bool:
        """Return whether every other rank ended as it should."""
        return all(b == DONE for r, b in enumerate(self._beats) if r != self._rank)

    def lost(self, states: Mapping[int, ProcessState], *, now: float) -> str | None:
        """Return a sentence on the lowest rank that is lost, None if none is.

        Args:
            states: Of the neighbours; looked up before the beats were, so that one that has ended
                in between is not taken for lost.
            now: Seconds of the clock of `hear`.
        """
        for rank, beat in enumerate(self._beats):
            if beat == DONE or rank == self._rank:
                continue
            silent = now - self._changed[rank]
            if found := self._finding(states.get(rank, "unknown"), silent):
                place = self._places[rank]
                return (
                    f"rank {rank} of {len(self._places)} {found} (process {place.process_id} on "
                    f"{place.host_name}, last heard {silent:.0f} s ago)"
                )
        return None

    def busy_neighbours(self, states: Mapping[int, ProcessState], *, now: float) -> list[int]:
        """Return neighbours that are silent beyond the patience although their process lives."""
        return [
            rank
            for rank, state in states.items()
            if state == "living"
            and self._beats[rank] != DONE
            and now - self._changed[rank] > self._patience
        ]

    def speaks_here(self, states: Mapping[int, ProcessState]) -> bool:
        """Return whether this rank is the lowest of its machine that lives and has not ended."""
        return all(
            rank > self._rank
            or states.get(rank) in ("gone", "stopped")
            or self._beats[rank] == DONE
            for rank in self.neighbours
        )

    def lowest_living(self, states: Mapping[int, ProcessState], *, now: float) -> int:
        """Return the lowest rank of the job that may be asked to speak for all."""
        for rank, beat in enumerate(self._beats):
            if rank == self._rank:
                return rank
            is_fresh = now - self._changed[rank] <= self._patience
            if beat != DONE and is_fresh and states.get(rank) not in ("gone", "stopped"):
                return rank
        return self._rank

    def _finding(self, state: ProcessState, silent_seconds: float) -> str | None:
        if state == "gone":
            return "has died"
        if state == "stopped" and silent_seconds > self._patience:
            return "was stopped"
        if state == "unknown" and silent_seconds > 2 * self._patience:
            return "does not answer"
        return None
