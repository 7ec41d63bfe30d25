"""The planner package: its public names, and what importing it must not pull in."""

import subprocess
import sys

import planner

HEAVY = {"torch", "transformers", "vllm", "peft", "flwr", "serving", "router", "finetune"}


def test_public_names_are_pinned_and_sorted():
    """The package exports its errors, in order."""
    assert planner.__all__ == [
        "DocumentError",
        "InfeasibleError",
        "PlannerError",
        "SolverError",
        "TimeLimitError",
    ]


def _modules_after(statement):
    code = f"{statement}; import sys; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_the_command_line_imports_no_solver():
    """Parsing comes before pulp, highspy, numpy and pydantic are loaded."""
    loaded = _modules_after("import planner.cli; planner.cli.run(['--help'])")
    assert not loaded & (HEAVY | {"pulp", "highspy", "numpy", "pydantic"})


def test_planning_imports_no_torch():
    """The planner runs on the base install."""
    assert not _modules_after("import planner.fleet.plan, planner.fleet.report") & HEAVY
