"""Why a plan drafts as it does, or not at all, in words."""

from collections.abc import Sequence

from planner.drafting.candidate import Candidate, DraftPlace, Load
from planner.drafting.cost_curve import CostCurve

_GIBIBYTE = 2**30


def place_reason(place: DraftPlace, *, is_chosen: bool) -> str:
    """Return whether a device has room for the draft, with the numbers."""
    needed, free = place.needed_bytes / _GIBIBYTE, place.free_bytes / _GIBIBYTE
    if not place.fits:
        return f"{place.device} cannot hold the draft: {needed:.1f} GiB needed, {free:.1f} GiB free"
    verb = "holds" if is_chosen else "could hold"
    return f"{place.device} {verb} the draft: {needed:.1f} of {free:.1f} GiB free"


def room_reason(
    target: CostCurve, load: Load, most_rows: int, chosen: Candidate
) -> tuple[str, ...]:
    """Return that the curve's end bounds the tree, where it does."""
    if most_rows > max(chosen.rows, 1):
        return ()
    return (
        f"the target's cost is known to {target.most_rows} rows, which bounds {_load(load)} to "
        f"{most_rows} each",
    )


def choice_reasons(
    chosen: Candidate,
    speculations: Sequence[Candidate],
    target: CostCurve,
    load: Load,
    min_speed_up: float,
) -> tuple[str, ...]:
    """Return why this way: what its round costs and emits, and what the load does to it."""
    shown = max(speculations, key=lambda c: (c.speed_up, -c.rows), default=None)
    if shown is None:
        return ("no speculation: no device with room has a draft that could be accepted",)
    trees = any(candidate.top_k > 1 for candidate in speculations)
    kind = "tree" if trees else "chain"
    first = _of_one(shown, target) if load == Load() else _of_batch(shown, load, target)
    gain = f"{shown.speed_up:.2f}x"
    if chosen.device is None:
        needed = f", not above {min_speed_up:.2f}x" if min_speed_up > 1 else ""
        first = f"no {kind} pays: {first}: the best gives {gain}{needed}"
    else:
        shape = "a chain" if chosen.top_k == 1 else f"a tree of top-{chosen.top_k}"
        first = f"{shape} pays: {first}: {gain}"
    hidden = shown.verify_seconds + shown.draft_seconds - shown.round_seconds
    # What is saved where some requests have no draft hides behind nothing.
    if hidden > 0 and load.drafted_fraction == 1:
        share = hidden / shown.draft_seconds
        return first, f"{share:.0%} of the drafting on {shown.device} hides behind verifying"
    return (first,)


def _of_one(shown: Candidate, target: CostCurve) -> str:
    drafting = shown.draft_seconds / target.seconds[0]
    return (
        f"verifying {shown.rows} rows costs {target.single_rows(shown.rows):.2f} single rows, "
        f"drafting them {drafting:.2f}, and {shown.tokens_per_round:.2f} tokens are emitted"
    )


def _of_batch(shown: Candidate, load: Load, target: CostCurve) -> str:
    plain = target.seconds_at(load.rows(1))
    added = shown.verify_seconds - plain
    return (
        f"{_load(load)} at {shown.rows} rows each add {added / plain:.2f} of the plain step to "
        f"verify and {shown.draft_seconds / plain:.2f} to draft, for "
        f"{shown.tokens_per_round:.2f} tokens each"
    )


def _load(load: Load) -> str:
    plural = "s" * (load.num_requests > 1)
    beside = f" beside {load.other_rows} other rows" if load.other_rows else ""
    return f"{load.num_requests} request{plural}{beside}"
