"""A fleet plan as tables for the terminal."""

from rich.console import Console
from rich.table import Table

from planner.fleet.fleet_plan import FleetPlan, PlannedReplicas, PlannedWeights
from planner.fleet.money import usd
from planner.fleet.verification import VerificationReport
from planner.fleet_program.answer import PROVEN_GAP_FRACTION, gap_fraction

SECONDS_PER_HOUR = 3600.0


def print_plan(plan: FleetPlan, console: Console) -> None:
    """Print replicas, shares, latencies, the comparison with single types, and what is not known."""
    console.print(_replicas_table(plan))
    console.print(_shares_table(plan))
    if plan.verification is not None:
        console.print(latency_table(plan.verification))
    console.print(_single_type_table(plan))
    for line in summary_lines(plan):
        console.print(line, markup=False, soft_wrap=True)


def summary_lines(plan: FleetPlan) -> list[str]:
    """Return cost, proof, comparisons, notes and the state of the latency, a sentence a line."""
    lines = [fleet_line(plan), comparison_line(plan), *_token_price(plan), *_oracle(plan)]
    if plan.survives:
        lines.append(
            f"survives the loss of {' and of '.join(plan.survives)}: all requests are still served; "
            "no latency is promised then"
        )
    if plan.solver_fallbacks:
        lines.append(f"solver fallbacks: {plan.solver_fallbacks}; see the log for the reasons")
    lines += [f"note: {note}" for note in plan.notes]
    if plan.verification is not None:
        lines += _verification_lines(plan, plan.verification)
    return [*lines, plan.latency]


def fleet_line(plan: FleetPlan) -> str:
    """Return the fleet, its cost and the proof in one line."""
    several = len(plan.models) > 1
    mix = " + ".join(f"{row.replicas} x {_named(row, several)}" for row in plan.replicas)
    proof = (
        f"{plan.status}: bound {usd(plan.bound_usd_per_hour)}/h, gap {plan.gap_fraction:.2%}, "
        f"{plan.solver}, {plan.solve_seconds:.2f} s"
    )
    return f"fleet: {mix} = {usd(plan.cost_usd_per_hour)}/h ({proof})"


def _named(row: PlannedReplicas, several: bool) -> str:
    return f"{row.offer} ({row.model})" if several else row.offer


def comparison_line(plan: FleetPlan) -> str:
    """Return the cheapest fleet of a single type beside the mix, in one line.

    Like is compared with like: a replay may change the plan, but has seen no other fleet.
    """
    single = plan.cheapest_single_types
    is_proven = all(fleet.is_proven for fleet in plan.single_type)
    if single is None:
        state = "none can serve the workload alone" if is_proven else "not known, time ran out"
        return f"cheapest single type: {state}"
    named = " + ".join(f"{fleet.replicas} x {fleet.offer}" for fleet in single)
    cost = sum(fleet.cost_usd_per_hour or 0.0 for fleet in single)
    label = "cheapest single type" + (" of each model" if len(single) > 1 else "")
    if not is_proven:
        label += " found, time ran out before proof"
    if plan.verification is not None:
        label += " (by the programs, before any replay)"
    if cost <= plan.program_cost_usd_per_hour:
        return f"{label}: {named} = {usd(cost)}/h; mixing saves nothing"
    saved = 1 - plan.program_cost_usd_per_hour / cost
    mix = "the mix"
    if plan.verification is not None:
        mix = f"the program's mix of {usd(plan.program_cost_usd_per_hour)}/h"
    return f"{label}: {named} = {usd(cost)}/h; {mix} saves {saved:.1%}"


def _token_price(plan: FleetPlan) -> list[str]:
    """Return the price of a million tokens, input and output alike, where lengths are known."""
    tokens_per_second = 0.0
    for model in plan.models:
        for size in model.workload.sizes():
            if size.rate_requests_per_second == 0:
                continue
            if size.mean_input_tokens is None or size.mean_output_tokens is None:
                return []
            tokens = size.mean_input_tokens + size.mean_output_tokens
            tokens_per_second += size.rate_requests_per_second * tokens
    price = plan.cost_usd_per_hour / (tokens_per_second * SECONDS_PER_HOUR) * 1e6
    return [f"price: {usd(price)} a million tokens, input and output together"]


def _oracle(plan: FleetPlan) -> list[str]:
    if plan.oracle_shares:
        return ["shares follow output lengths (the oracle form): no router can know them"]
    oracle = plan.oracle_cost_usd_per_hour
    if oracle is None:
        return []
    bound = oracle if plan.oracle_bound_usd_per_hour is None else plan.oracle_bound_usd_per_hour
    is_open = gap_fraction(oracle, bound) > PROVEN_GAP_FRACTION
    least = bound if is_open else oracle
    price = max(0.0, plan.program_cost_usd_per_hour - least)
    return [
        f"price of not knowing output lengths: {'at most ' if is_open else ''}{usd(price)}/h "
        f"(the program costs {usd(plan.program_cost_usd_per_hour)}/h, with an oracle "
        f"{'at least ' if is_open else ''}{usd(least)}/h)"
    ]


def _verification_lines(plan: FleetPlan, report: VerificationReport) -> list[str]:
    lines = [
        f"replayed: {report.replayed} ({report.num_requests:,} requests, {report.num_samples} "
        f"samples)",
        f"verification: {_rounds(report.num_rounds)}, {usd(report.cost_before_usd_per_hour)}/h "
        f"before, {usd(plan.cost_usd_per_hour)}/h after",
    ]
    return lines + [f"saving taken: {saving}" for saving in report.savings]


def _rounds(count: int) -> str:
    return "1 round" if count == 1 else f"{count} rounds"


def _replicas_table(plan: FleetPlan) -> Table:
    table = Table(title=f"replicas of {', '.join(dict.fromkeys(r.model for r in plan.replicas))}")
    several = len(plan.models) > 1
    if several:
        table.add_column("model", overflow="fold")
    table.add_column("offer", overflow="fold")
    for title in ("replicas", "GPUs", "$/h each", "$/h", "load", "used", "limit"):
        table.add_column(title, justify="right")
    for row in plan.replicas:
        table.add_row(
            *([row.model] if several else []),
            row.offer,
            str(row.replicas),
            str(row.replicas * row.devices_per_replica),
            usd(row.price_usd_per_hour),
            usd(row.cost_usd_per_hour),
            f"{row.load_replicas:.2f}",
            f"{row.utilisation_fraction:.1%}",
            f"{row.utilisation_limit_fraction:.1%}",
        )
    return table


def _shares_table(plan: FleetPlan) -> Table:
    several = len(plan.models) > 1
    table = Table(title="shares by request size: the router's weights")
    if several:
        table.add_column("model", overflow="fold")
    titles = ["input tokens", "requests/s"]
    if plan.oracle_shares:
        titles.insert(1, "output tokens")
    for title in titles:
        table.add_column(title, justify="right")
    table.add_column("served by", overflow="fold")
    for row in plan.weights:
        table.add_row(*([row.model] if several else []), *_share_cells(row))
    return table


def _share_cells(row: PlannedWeights) -> list[str]:
    cells = [f"{row.input_tokens_over + 1}-{row.input_tokens_up_to}"]
    if row.output_tokens_up_to is not None:
        cells.append(f"{(row.output_tokens_over or 0) + 1}-{row.output_tokens_up_to}")
    shares = ", ".join(f"{name} {share:.1%}" for name, share in row.shares_fraction.items())
    return [*cells, f"{row.rate_requests_per_second:.4g}", shares]


def latency_table(report: VerificationReport) -> Table:
    """Return every target with its replayed value and interval."""
    table = Table(title="latency, replayed")
    for title in ("model", "target"):
        table.add_column(title, overflow="fold")
    for title in ("limit", "value", "± 95 %", ""):
        table.add_column(title, justify="right")
    for target in report.targets:
        width = target.half_width_seconds
        table.add_row(
            target.model,
            target.target,
            f"{target.limit_seconds:.4g} s",
            f"{target.value_seconds:.4g} s",
            "not known" if width is None else f"{width:.2g} s",
            target.in_words,
        )
    return table


def _single_type_table(plan: FleetPlan) -> Table:
    table = Table(title="single-type fleets, for comparison")
    several = len(plan.models) > 1
    if several:
        table.add_column("model", overflow="fold")
    table.add_column("type", overflow="fold")
    table.add_column("replicas", justify="right")
    table.add_column("$/h", justify="right")
    table.add_column("why not", overflow="fold")
    for fleet in plan.single_type:
        cost = fleet.cost_usd_per_hour
        table.add_row(
            *([fleet.model] if several else []),
            fleet.offer,
            "-" if fleet.replicas is None else str(fleet.replicas),
            "-" if cost is None else usd(cost) + ("" if fleet.is_proven else " or less"),
            fleet.obstacle,
        )
    return table
