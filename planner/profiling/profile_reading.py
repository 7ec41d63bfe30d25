"""What a profile says a replica sustains, request size by request size, under a latency target.

Of a cell's runs, those with a failed request or above a limit at its statistic are dropped. Of the
rest, those count whose answers kept pace: achieved at least 0.9 of offered (otherwise requests were
piling up). The cell's value is what the run at the highest such rate achieved. A cell without one is
infeasible or saturated, as data with its reason. A closed loop tells no rate: its clients wait.

Between cells the replica's time for a request, 1 / rate, is interpolated bilinearly: it is nearly
linear in the tokens, and where latency binds it bends upwards, so the line between two cells is not
below it. Where a cell around the size has no rate, the next larger one in both directions stands in.

Source: the rule of AIBrix's profile generator (vllm-project/aibrix, `gen_profile.py`), whose lowest
offered rate for saturated cells and whose zero for infeasible ones we do not take over.
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from planner.errors import ProfileError
from planner.profiling.profile import Cell, LatencySummary, Profile, Run
from planner.workloads.slo import Slo, Statistic

LEAST_ACHIEVED_FRACTION = 0.9
"""Of the offered rate; below it a run is saturated. Source: AIBrix, `TPUT_TOLERANCE`."""


_NO_LIMIT_SECONDS = 1e9


@dataclass(frozen=True, slots=True)
class ProfiledRate:
    """What one replica sustains of one request size."""

    requests_per_second: float | None
    """Nothing: it cannot, or the profile does not tell; then there is a reason."""
    reason: str | None = None
    """Why there is no rate, and what to do."""
    note: str | None = None
    """How the rate follows from cells of other sizes; nothing: the size is a cell."""


def profiled_throughputs(
    profile: Profile,
    sizes: Sequence[tuple[float, float]],
    slo: Slo,
    *,
    extrapolates: bool = False,
) -> tuple[ProfiledRate, ...]:
    """Return what a replica sustains of each `(input_tokens, output_tokens)`.

    Args:
        profile: Measured or imported.
        sizes: Each length at least 1; fractions are means.
        slo: The target.
        extrapolates: Whether sizes beyond the longest cells are computed, in proportion to their
            tokens, instead of refused.

    Raises:
        ProfileError: If imported rates were picked under another target, or a run lacks the
            statistic that the target names.
    """
    check_target(profile, slo)
    rates = [
        [cell_rate(cell, slo, _name(inputs, outputs)) for outputs, cell in _row(profile, row)]
        for inputs, row in zip(profile.input_tokens, profile.cells, strict=True)
    ]
    table = _Table(profile.input_tokens, profile.output_tokens, rates)
    return tuple(table.rate(*size, extrapolates=extrapolates) for size in sizes)


def headroom(
    profile: Profile,
    sizes: Sequence[tuple[float, float]],
    slo: Slo,
    *,
    extrapolates: bool = False,
) -> float:
    """Return how many times the target's rates a replica kept pace with: the least of all sizes.

    Beyond, requests were measured to pile up. Arguments and errors are those of
    `profiled_throughputs`; 1 for imported rates, of which nothing more is known.
    """
    if profile.taken_under is not None:
        return 1.0
    limits = [name for name in ("ttft_seconds", "tpot_seconds") if getattr(slo, name) is not None]
    loose = slo.model_copy(update=dict.fromkeys(limits, _NO_LIMIT_SECONDS))
    within = profiled_throughputs(profile, sizes, slo, extrapolates=extrapolates)
    at_all = profiled_throughputs(profile, sizes, loose, extrapolates=extrapolates)
    return min(
        (
            most.requests_per_second / rate.requests_per_second
            for most, rate in zip(at_all, within, strict=True)
            if most.requests_per_second and rate.requests_per_second
        ),
        default=1.0,
    )


def check_target(profile: Profile, slo: Slo) -> None:
    """Refuse imported rates that were picked under another target than `slo`.

    Raises:
        ProfileError: Names the differences.
    """
    if profile.taken_under is None:
        return
    differences = profile.taken_under.differences_from(slo)
    if differences:
        raise ProfileError(
            f"the profile of {profile.model} on {profile.gpu} holds rates picked under another "
            f"target: {'; '.join(differences)}; plan for that target, or import the runs themselves"
        )


def cell_rate(cell: Cell, slo: Slo, name: str) -> ProfiledRate:
    """Return the rate of one cell; `name` says in errors which.

    Raises:
        ProfileError: If a run lacks the statistic that the target names.
    """
    if cell.thresholded is not None:
        rate = cell.thresholded.requests_per_second
        reason = None if rate else f"{name}: no run met the target it was profiled under"
        return ProfiledRate(rate, reason)
    if not cell.runs:
        return ProfiledRate(None, f"{name}: not measured; profile it")
    open_runs = [run for run in cell.runs if run.offered_requests_per_second is not None]
    if not open_runs:
        return ProfiledRate(
            None, f"{name}: only closed loops were run, which tell no rate; offer a request rate"
        )
    misses = {index: missed(run, slo, name) for index, run in enumerate(open_runs)}
    within = [run for index, run in enumerate(open_runs) if not misses[index]]
    if not within:
        gentlest = min(misses, key=lambda index: open_runs[index].offered_requests_per_second or 0)
        offered = open_runs[gentlest].offered_requests_per_second
        return ProfiledRate(
            None,
            f"{name}: no run meets the target; at the lowest rate, {offered:.4g} requests/s, "
            f"{misses[gentlest]}",
        )
    steady = [run for run in within if not is_saturated(run)]
    if not steady:
        return ProfiledRate(
            None, f"{name}: saturated at the lowest rate tested; re-measure it at lower rates"
        )
    best = max(steady, key=_offered_then_least_achieved)
    return ProfiledRate(best.achieved_requests_per_second)


def is_saturated(run: Run) -> bool:
    """Tell whether requests were piling up; a closed loop never does."""
    offered = run.offered_requests_per_second
    return (
        offered is not None and run.achieved_requests_per_second < LEAST_ACHIEVED_FRACTION * offered
    )


def missed(run: Run, slo: Slo, name: str) -> str | None:
    """Return in words which part of a target a run misses; nothing: none.

    Raises:
        ProfileError: If the run lacks the statistic that the target names.
    """
    if run.num_failures:
        return f"{run.num_failures} of {run.num_requests} requests failed"
    if slo.ttft_seconds is not None:
        value = _statistic(run.ttft, slo.ttft_statistic, f"{name}: {run.source} holds no TTFT")
        if value > slo.ttft_seconds:
            return f"the TTFT {slo.ttft_statistic} is {value:.4g} s, limit {slo.ttft_seconds:.4g} s"
    if slo.tpot_seconds is not None and run.mean_output_tokens > 1:
        summary = run.tpot if slo.tpot_per == "request" else run.token_gap
        lacking = f"{name}: {run.source} holds no TPOT per {slo.tpot_per}"
        value = _statistic(summary or LatencySummary(), slo.tpot_statistic, lacking)
        if value > slo.tpot_seconds:
            return (
                f"the TPOT {slo.tpot_statistic} per {slo.tpot_per} is {value:.4g} s, "
                f"limit {slo.tpot_seconds:.4g} s"
            )
    return None


def _statistic(summary: LatencySummary, statistic: Statistic, lacking: str) -> float:
    value = summary.at(statistic)
    if value is None:
        known = ", ".join(summary.known()) or "nothing"
        raise ProfileError(
            f"{lacking} {statistic} (it has {known}); name a statistic it has in the target, "
            "or benchmark again with all percentiles"
        )
    return value


def _offered_then_least_achieved(run: Run) -> tuple[float, float]:
    assert run.offered_requests_per_second is not None, "closed loops were left out"
    return run.offered_requests_per_second, -run.achieved_requests_per_second


def _row(profile: Profile, row: Sequence[Cell]) -> list[tuple[int, Cell]]:
    return list(zip(profile.output_tokens, row, strict=True))


def _name(input_tokens: float, output_tokens: float) -> str:
    return f"input {input_tokens:g}, output {output_tokens:g} tokens"


@dataclass(frozen=True, slots=True)
class _Table:
    """Rates of the cells, and what follows from them for other sizes."""

    inputs: Sequence[int]
    outputs: Sequence[int]
    rates: Sequence[Sequence[ProfiledRate]]

    def rate(
        self, input_tokens: float, output_tokens: float, *, extrapolates: bool
    ) -> ProfiledRate:
        """Return the rate of one size."""
        kept = min(input_tokens, self.inputs[-1]), min(output_tokens, self.outputs[-1])
        factor = (input_tokens / kept[0]) * (output_tokens / kept[1])
        if factor == 1:
            return self._inside(*kept)
        name = _name(input_tokens, output_tokens)
        longest = _name(self.inputs[-1], self.outputs[-1])
        if not extrapolates:
            return ProfiledRate(
                None, f"{name}: beyond the profile's longest cells, {longest}; profile it"
            )
        inside = self._inside(*kept)
        if inside.requests_per_second is None:
            return inside
        note = f"{name}: extrapolated, a request counts as {factor:.3g} of {_name(*kept)}"
        return ProfiledRate(inside.requests_per_second / factor, note=note)

    def _inside(self, input_tokens: float, output_tokens: float) -> ProfiledRate:
        rows = _weights(self.inputs, input_tokens)
        columns = _weights(self.outputs, output_tokens)
        larger = self.rates[rows[-1][0]][columns[-1][0]]
        corners = [
            (self.rates[row][column].requests_per_second, at_row * at_column)
            for (row, at_row), (column, at_column) in product(rows, columns)
        ]
        size = _name(self.inputs[rows[-1][0]], self.outputs[columns[-1][0]])
        name = _name(input_tokens, output_tokens)
        if len(corners) == 1 or not all(rate for rate, _ in corners):
            if larger.requests_per_second is None or name == size:
                return larger
            return ProfiledRate(larger.requests_per_second, note=f"{name}: taken as {size}")
        seconds = sum(weight / rate for rate, weight in corners if rate)
        return ProfiledRate(1 / seconds, note=f"{name}: interpolated between cells up to {size}")


def _weights(axis: Sequence[int], tokens: float) -> list[tuple[int, float]]:
    """Return the one or two places on an axis around a length, with their weights."""
    above = bisect_left(axis, tokens)
    if above == 0 or axis[above] == tokens:
        return [(above, 1.0)]
    part = (tokens - axis[above - 1]) / (axis[above] - axis[above - 1])
    return [(above - 1, 1 - part), (above, part)]
