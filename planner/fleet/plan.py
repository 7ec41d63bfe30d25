"""`plan_fleet`: from a file's content to a plan, or to the reason why there is none."""

import time
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from planner.errors import DocumentError, InfeasibleError, PlannerError, TimeLimitError
from planner.fleet.fleet_config import FleetConfig
from planner.fleet.fleet_models import fleet_models
from planner.fleet.fleet_plan import LATENCY_NOT_VERIFIED, FleetPlan, SingleTypeFleet
from planner.fleet.fleet_replays import obstacle_to_replay, replays
from planner.fleet.fleet_rows import fleet_problem
from planner.fleet.judging import Judge, OnProgress, Solved
from planner.fleet.plan_document import FleetInputs, plan_document
from planner.fleet.plan_file import read_plan
from planner.fleet.replay import too_few
from planner.fleet.replica_kinds import replica_kinds
from planner.fleet.savings import SavingsSearch
from planner.fleet.single_types import single_type_fleets
from planner.fleet.verification import LEAST_REPLAYED_SECONDS, too_few_in_words
from planner.fleet.verify import Limits, verified, with_report
from planner.fleet_program.answer import FleetAnswer
from planner.fleet_program.balance import OVERLOAD_TOLERANCE
from planner.fleet_program.infeasible import explain
from planner.fleet_program.problem import FleetProblem
from planner.fleet_program.solve import solve
from planner.hardware.catalogue import load_catalogue
from planner.solvers import SolverChain, default_solvers

TIME_LIMIT_SECONDS = 60.0
"""How long one search for the cheapest counts may take unless told otherwise."""

SEARCH_GAP_FRACTION = 1e-7
"""The relative gap at which a search stops unless told otherwise: well under a proven one."""


@dataclass(frozen=True, slots=True)
class FleetOutcome:
    """What planning came to."""

    status: Literal["optimal", "feasible", "infeasible", "time_limit"]
    """`feasible`: a plan with an open gap. `time_limit`: no plan was found in time."""
    plan: FleetPlan | None
    """The plan, where there is one."""
    reason: str
    """Why there is none, in one line; empty where there is one."""

    def failure(self, file: Path) -> PlannerError:
        """Return the error of an outcome without a plan of `file`."""
        kind = InfeasibleError if self.status == "infeasible" else TimeLimitError
        return kind(f"{file}: {self.reason}")


@dataclass(frozen=True, slots=True)
class Search:
    """How to look for a plan."""

    solver: SolverChain = field(default_factory=default_solvers)
    """Who solves the programs."""
    time_limit_seconds: float = TIME_LIMIT_SECONDS
    """For the search of the replica counts of each program, above 0."""
    gap_fraction: float = SEARCH_GAP_FRACTION
    """Relative gap at which that search may stop."""
    clock: Callable[[], float] = time.perf_counter
    """Seconds from any start."""
    on_progress: OnProgress = lambda text, fraction: None
    """Told what is being done."""


def plan_fleet(
    config: FleetConfig, *, folder: Path = Path(), search: Search | None = None
) -> FleetOutcome:
    """Return the cheapest fleet for the models of `config`, replayed where it asks for that.

    Args:
        config: Models, offers and rules.
        folder: Where the file's relative paths start.
        search: How to look for it.

    Raises:
        PlannerError: If an input cannot be read, or no solver works.
    """
    return FleetPlanner(fleet_inputs(config, folder=folder), search or Search()).run()


def demand_plan(config: FleetConfig, *, file: Path, search: Search) -> FleetPlan:
    """Return the plan of the config in `file`.

    Raises:
        InfeasibleError: If there is none; the message says why.
        TimeLimitError: If none was found in time.
        PlannerError: If an input cannot be read, or no solver works.
    """
    outcome = plan_fleet(config, folder=file.parent, search=search)
    if outcome.plan is None:
        raise outcome.failure(file)
    return outcome.plan


def fleet_inputs(config: FleetConfig, *, folder: Path) -> FleetInputs:
    """Return the file with models, prices, speeds and the current plan looked up."""
    catalogue = load_catalogue(folder / file.expanduser() for file in config.catalogues)
    models = fleet_models(config, catalogue, folder=folder)
    kinds = replica_kinds(config, models, catalogue, folder=folder)
    current = None
    if config.current_plan is not None:
        path = folder / config.current_plan.expanduser()
        current = {(row.model, row.offer): row.replicas for row in read_plan(path).replicas}
        _check_current(path, config, current, {(models[k.model].name, k.name) for k in kinds})
    return FleetInputs(config, models, kinds, current)


def _check_current(
    path: Path,
    config: FleetConfig,
    current: Mapping[tuple[str, str], int],
    known: Set[tuple[str, str]],
) -> None:
    """Refuse running replicas that a bounded change would take away because no offer names them."""
    for (model, offer), count in current.items():
        if config.max_change_replicas is not None and (model, offer) not in known:
            raise DocumentError(
                path,
                f"runs {count} x {offer} for {model}, which the file to plan does not offer; "
                "add the offer, or leave out max_change_replicas",
            )


class FleetPlanner:
    """Plans one file."""

    def __init__(self, inputs: FleetInputs, search: Search) -> None:
        self._inputs = inputs
        self._search = search

    def run(self) -> FleetOutcome:
        """Solve, verify where asked, and compare."""
        first = self.first()
        if isinstance(first, FleetOutcome):
            return first
        plan = self._verified(first).model_copy(
            update={
                "program_cost_usd_per_hour": first.answer.cost_usd_per_hour,
                "single_type": self.single_types(first),
            }
            | self._oracle()
        )
        return FleetOutcome(plan.status, plan, "")

    def first(self) -> Solved | FleetOutcome:
        """Return the plan of the first program, or why it has none."""
        problem = self.problem()
        answer = self.answer(problem)
        if answer.status == "infeasible":
            reason = explain(
                problem,
                solver=self._search.solver,
                clock=self._search.clock,
                why_not=self._inputs.why_not,
            )
            return FleetOutcome("infeasible", None, reason)
        if answer.status == "time_limit":
            limit = self._search.time_limit_seconds
            reason = f"no plan was found within {limit:g} s; raise the time limit"
            return FleetOutcome("time_limit", None, reason)
        return Solved(problem, answer, self.draw(problem, answer))

    def single_types(self, first: Solved) -> tuple[SingleTypeFleet, ...]:
        """Return what each offer alone would cost under the first program's rules."""
        search = self._search
        return single_type_fleets(
            self._inputs, first.problem, solver=search.solver, clock=search.clock
        )

    def problem(
        self, limits: Limits | None = None, *, knows_outputs: bool | None = None
    ) -> FleetProblem:
        """Return the program's numbers, under other utilisation limits or in the other form."""
        config = self._inputs.config
        numbers = {model.name: m for m, model in enumerate(self._inputs.models)}
        oracle = config.shares == "oracle" if knows_outputs is None else knows_outputs
        return fleet_problem(
            config,
            self._inputs.models,
            self._inputs.kinds,
            knows_outputs=oracle,
            limits_fraction={(numbers[m], o): u for (m, o), u in (limits or {}).items()},
            current_replicas=self._inputs.current_replicas,
        )

    def answer(self, problem: FleetProblem) -> FleetAnswer:
        """Return the solved program."""
        search = self._search
        search.on_progress("solving", 0.0)
        return solve(
            problem,
            solver=search.solver,
            time_limit_seconds=search.time_limit_seconds,
            gap_fraction=search.gap_fraction,
            clock=search.clock,
        )

    def draw(self, problem: FleetProblem, answer: FleetAnswer) -> FleetPlan:
        """Return the document of an answer."""
        return plan_document(
            self._inputs, problem, answer, num_fallbacks=self._search.solver.num_fallbacks
        )

    def solved(self, limits: Limits) -> Solved | None:
        """Return the plan under other utilisation limits; nothing: there is none."""
        problem = self.problem(limits)
        answer = self.answer(problem)
        return Solved(problem, answer, self.draw(problem, answer)) if answer.counts else None

    def _verified(self, first: Solved) -> FleetPlan:
        verification = self._inputs.config.verification
        if verification is None:
            return first.plan
        replayed = replays(self._inputs, verification)
        obstacle = obstacle_to_replay(self._inputs)
        if not obstacle and (few := too_few(replayed)):
            obstacle = too_few_in_words(few)
        if obstacle:
            words = f"{LATENCY_NOT_VERIFIED}: {obstacle}"
            return first.plan.model_copy(update={"latency": words})
        targets = {model.name: model.config.slo for model in self._inputs.models}
        judge = Judge(
            {name: slo for name, slo in targets.items() if slo is not None},
            replayed,
            self._search.on_progress,
        )
        search = self._savings_search(judge, verification.savings_seconds)
        ended = verified(
            first,
            solve=self.solved,
            judge=judge,
            num_rounds=verification.rounds,
            savings_search=search,
        )
        plan = self._noted(with_report(ended, judge))
        if not ended.is_search_cut:
            return plan
        note = (
            f"the search for savings ended after {verification.savings_seconds:g} s: more replicas "
            "may be spare; raise savings_seconds"
        )
        return plan.model_copy(update={"notes": (*plan.notes, note)})

    def _noted(self, plan: FleetPlan) -> FleetPlan:
        """Return the plan with a note on loads that savings raised above the file's limits."""
        default = self._inputs.config.utilisation_limit_fraction
        limits = {
            (self._inputs.models[kind.model].name, kind.name): kind.offer.limit_fraction(default)
            for kind in self._inputs.kinds
        }
        above = [
            f"{row.offer} {row.utilisation_fraction:.1%} (limit {limits[row.model, row.offer]:.1%})"
            for row in plan.replicas
            if row.utilisation_fraction > limits[row.model, row.offer] + OVERLOAD_TOLERANCE
        ]
        if not above:
            return plan
        note = (
            f"planned loads above utilisation_limit_fraction: {', '.join(above)}: the replay holds "
            "every target with them; savings_seconds: 0 keeps to the limits"
        )
        return plan.model_copy(update={"notes": (*plan.notes, note)})

    def _savings_search(self, judge: Judge, seconds: float) -> SavingsSearch | None:
        is_short = judge.duration_seconds < LEAST_REPLAYED_SECONDS
        if self._inputs.config.survive or seconds == 0 or is_short:
            return None
        clock = self._search.clock
        started: list[float] = []

        def is_time_up() -> bool:
            if not started:
                started.append(clock())
            return clock() - started[0] > seconds

        return SavingsSearch(judge, self.draw, self._search.solver, is_time_up)

    def _oracle(self) -> dict[str, float]:
        """Return cost and bound of the program if shares could follow outputs, where it is solved."""
        if self._inputs.config.shares == "oracle":
            return {}
        answer = self.answer(self.problem(knows_outputs=True))
        if not answer.counts:
            return {}
        return {
            "oracle_cost_usd_per_hour": answer.cost_usd_per_hour,
            "oracle_bound_usd_per_hour": answer.bound_usd_per_hour,
        }
