"""A training plan as tables and sentences for the terminal."""

from collections import Counter

from rich.console import Console
from rich.table import Table

from planner.training.calibration import Calibration
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
    lines = [
        f"{len(plan.batches)} batches of {plan.batch_size} sequences on "
        f"{plan.cluster.num_devices} devices: {_ms(total)}, {total / bound - 1:.1%} above the bound"
    ]
    for name in ("homogeneous", "static"):
        others = [getattr(batch, name) for batch in plan.batches]
        if all(other is not None for other in others):
            seconds = sum(other.predicted_seconds for other in others)
            lines.append(f"{_WORDS[name]}: {_ms(seconds)}, {seconds / total:.2f}x the plan's time")
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
        console.print(f"exchange   {rate / 1e9:.4g} GB/s at degree {degree}")
    console.print(
        f"median error {found.median_error_fraction:.1%} over {found.num_measurements} groups "
        f"(before: {found.median_error_before_fraction:.1%})",
        soft_wrap=True,
    )


def group_counts(part: MicroBatch) -> str:
    """Return a micro-batch's groups as counts of degrees, largest first, such as 1x16 + 2x8."""
    counts = Counter(group.degree for group in part.groups)
    return " + ".join(f"{counts[degree]}x{degree}" for degree in sorted(counts, reverse=True))


_WORDS = {"homogeneous": "best single degree a batch", "static": "one degree for all batches"}


def _batches_table(plan: TrainingPlan) -> Table:
    table = Table(title=f"training plan of {plan.model}")
    for title in ("batch", "tokens", "longest", "plan", "bound", "gap", "one degree", "static"):
        table.add_column(title, justify="right")
    table.add_column("solver")
    table.add_column("groups by micro-batch (count x degree)", overflow="fold")
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
            f"{batch.solver} {batch.planning_seconds:.2f} s",
            "; ".join(group_counts(part) for part in batch.micro_batches),
        )
    if len(plan.batches) > MOST_BATCHES_SHOWN:
        table.add_section()
        table.add_row(f"... {len(plan.batches) - MOST_BATCHES_SHOWN} more")
    return table


def _groups_table(batch: BatchPlan) -> Table:
    table = Table(title="groups of batch 0")
    for title in ("micro-batch", "ranks", "degree", "sequences", "tokens", "longest", "time"):
        table.add_column(title, justify="right")
    for number, part in enumerate(batch.micro_batches):
        for group in part.groups[:16]:
            lengths = [batch.lengths[i] for i in group.sequences]
            table.add_row(
                str(number),
                _ranks(group.ranks),
                str(group.degree),
                str(len(lengths)),
                f"{sum(lengths):,}",
                f"{max(lengths):,}",
                _ms(group.predicted_seconds),
            )
        if len(part.groups) > 16:
            table.add_row(str(number), f"... {len(part.groups) - 16} more groups")
    return table


def _ranks(ranks: tuple[int, ...]) -> str:
    if len(ranks) > 1 and ranks == tuple(range(ranks[0], ranks[-1] + 1)):
        return f"{ranks[0]}-{ranks[-1]}"
    return ",".join(map(str, ranks))


def _other(other: HomogeneousPlan | None) -> str:
    return "-" if other is None else f"{_ms(other.predicted_seconds)} ({other.degree})"


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:,.2f} ms"
