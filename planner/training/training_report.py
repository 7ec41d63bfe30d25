"""A training plan as tables and sentences for the terminal."""

from collections import Counter

from rich.console import Console
from rich.table import Table

from planner.training.calibration import FASTEST_RATE, POOR_ERROR_FRACTION, Calibration
from planner.training.training_plan import BatchPlan, HomogeneousPlan, MicroBatch, TrainingPlan

MOST_BATCHES_SHOWN = 40


def print_training_plan(plan: TrainingPlan, console: Console) -> None:
    """Print a line a batch, the groups of the first one, totals and what is to be known."""
    console.print(_batches_table(plan))
    console.print(_groups_table(plan.batches[0]))
    for line in summary_lines(plan):
        console.print(line, markup=False, soft_wrap=True)


def summary_lines(plan: TrainingPlan) -> list[str]:
    """Return totals, comparisons, what was left out and whether the plan runs, a sentence a line."""
    total = sum(batch.predicted_seconds for batch in plan.batches)
    bound = sum(batch.lower_bound_seconds for batch in plan.batches)
    gap = total / bound - 1 if bound else 0.0
    lines = [
        f"{len(plan.batches)} {'batch' if len(plan.batches) == 1 else 'batches'} of "
        f"{plan.batch_size} sequences on "
        f"{plan.cluster.num_devices} devices: {_ms(total)} ms, {gap:.1%} above the bound",
        _planning_line(plan),
    ]
    for name in ("homogeneous", "static"):
        others = [getattr(batch, name) for batch in plan.batches]
        if all(other is not None for other in others):
            seconds = sum(other.predicted_seconds for other in others)
            lines.append(
                f"{_WORDS[name]}: {_ms(seconds)} ms, {seconds / total if total else 1:.2f}x the plan's time"
            )
        else:
            lines.append(f"{_WORDS[name]}: none holds every sequence")
    if plan.num_dropped_long or plan.num_dropped_empty:
        lines.append(
            f"left out: {plan.num_dropped_long} sequences above {plan.max_tokens} tokens, "
            f"{plan.num_dropped_empty} without a token"
        )
    lines += [f"note: {note}" for note in plan.notes]
    lines.append(f"costs: {plan.costs.name} ({plan.costs.source}, {plan.costs.date})")
    if plan.not_runnable is not None:
        lines.append(f"not runnable: {plan.not_runnable}")
    return lines


def print_calibration(found: Calibration, console: Console) -> None:
    """Print the fitted costs and how well they tell the measurements."""
    costs = found.costs
    console.print(f"attention  {costs.attention_seconds_per_token_squared:.4g} s/token^2")
    console.print(f"linear     {costs.linear_seconds_per_token:.4g} s/token")
    console.print(f"fixed      {costs.micro_batch_seconds:.4g} s a group and micro-batch")
    for degree, rate in costs.all_to_all_bytes_per_second.items():
        known = f"{rate / 1e9:.4g} GB/s" if rate < FASTEST_RATE else "not told apart, so the links'"
        console.print(f"exchange   {known} at degree {degree}")
    console.print(
        f"median error {found.median_error_fraction:.1%} over {found.num_measurements} groups, "
        f"{found.num_left_out} of them left out of the fit "
        f"(before: {found.median_error_before_fraction:.1%})",
        soft_wrap=True,
    )
    if found.median_error_fraction > POOR_ERROR_FRACTION:
        console.print(
            "note: a poor fit, whose plans may be in the wrong order; measure more steps, of more "
            "unlike lengths, on machines that do nothing else",
            soft_wrap=True,
        )
    if found.num_unseen_devices:
        console.print(
            f"note: {found.num_unseen_devices} of the cluster's devices were in no measured group; "
            "costs hold for the devices that were measured",
            soft_wrap=True,
        )
    if found.capped_degrees:
        console.print(
            f"note: degrees {list(found.capped_degrees)} exchanged faster than the cluster's links, "
            "at whose rates plans count them; raise node_bytes_per_second or nic_bytes_per_second "
            "in the cluster's file",
            markup=False,
            soft_wrap=True,
        )


def group_counts(part: MicroBatch) -> str:
    """Return a micro-batch's groups as counts of degrees, largest first, such as 1x16 + 2x8."""
    counts = Counter(group.degree for group in part.groups)
    return " + ".join(f"{counts[degree]}x{degree}" for degree in sorted(counts, reverse=True))


def _planning_line(plan: TrainingPlan) -> str:
    seconds = sorted(batch.planning_seconds for batch in plan.batches)
    improved = sum(batch.solver == "milp" for batch in plan.batches)
    found = f"; milp improved {improved} of {len(plan.batches)}" if improved else ""
    return f"planned in {seconds[len(seconds) // 2]:.3f} s a batch (median), {seconds[-1]:.3f} at most{found}"


_WORDS = {
    "homogeneous": "best single degree a batch, packed as published",
    "static": "one degree for all batches, packed as published",
}


def _batches_table(plan: TrainingPlan) -> Table:
    table = Table(title=f"training plan of {plan.model}, times in ms")
    for title in ("batch", "tokens", "longest", "plan", "bound", "gap", "one degree", "static"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("groups by micro-batch", overflow="fold")
    for number, batch in enumerate(plan.batches[:MOST_BATCHES_SHOWN]):
        table.add_row(
            str(number),
            f"{sum(batch.lengths):,}",
            f"{max(batch.lengths):,}",
            _ms(batch.predicted_seconds),
            _ms(batch.lower_bound_seconds),
            f"{batch.gap_fraction:.1%}",
            _other(batch.homogeneous),
            _other(batch.static),
            "; ".join(group_counts(part) for part in batch.micro_batches),
        )
    if len(plan.batches) > MOST_BATCHES_SHOWN:
        table.add_row("...", f"{len(plan.batches) - MOST_BATCHES_SHOWN} more")
    return table


def _groups_table(batch: BatchPlan) -> Table:
    table = Table(title="batch 0: its groups by degree")
    for title in ("micro-batch", "groups", "degree", "ranks", "sequences", "tokens", "longest"):
        table.add_column(title, justify="right")
    table.add_column("ms, fastest and slowest group", justify="right")
    for number, part in enumerate(batch.micro_batches):
        for degree in sorted({group.degree for group in part.groups}, reverse=True):
            alike = [group for group in part.groups if group.degree == degree]
            lengths = [batch.lengths[i] for group in alike for i in group.sequences]
            seconds = [group.predicted_seconds for group in alike]
            table.add_row(
                str(number),
                str(len(alike)),
                str(degree),
                _ranks(sorted(rank for group in alike for rank in group.ranks)),
                str(len(lengths)),
                f"{sum(lengths):,}",
                f"{max(lengths):,}",
                f"{_ms(min(seconds))} to {_ms(max(seconds))}",
            )
    return table


def _ranks(ranks: list[int]) -> str:
    """Return ascending ranks as runs, such as 0-7,12."""
    runs: list[list[int]] = []
    for rank in ranks:
        if runs and rank == runs[-1][1] + 1:
            runs[-1][1] = rank
        else:
            runs.append([rank, rank])
    return ",".join(f"{a}-{b}" if a < b else str(a) for a, b in runs)


def _other(other: HomogeneousPlan | None) -> str:
    return "-" if other is None else f"{_ms(other.predicted_seconds)} ({other.degree})"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.2f}"
