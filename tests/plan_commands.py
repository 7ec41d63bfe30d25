"""`motley plan` run in this process: plans from files, and refusals."""

import json
from pathlib import Path

from fleet_files import written

import motley
from planner.fleet.fleet_plan import FleetPlan
from planner.fleet.plan_file import read_plan


def planned(path: Path, folder: Path) -> FleetPlan:
    """Plan a file into plan.json in the folder; return the plan read back from there."""
    target = folder / "plan.json"
    assert motley.main(["plan", "fleet", str(path), "--output", str(target)]) == 0
    return read_plan(target)


def simulated(folder: Path, *words: str, plan: str = "plan.json"):
    """Replay requests on the folder's plan; return the exit code and the report, if any."""
    report = folder / "report.json"
    report.unlink(missing_ok=True)
    code = motley.main(["plan", "simulate", str(folder / plan), "--output", str(report), *words])
    return code, json.loads(report.read_text()) if report.exists() else None


def failure(capsys, arguments):
    """Run a command that fails; return its exit code and its one line on standard error."""
    code = motley.main(arguments)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("motley: error: ")
    return code, captured.err


def refused(content, folder, capsys):
    """Plan a file that has no plan; return exit code and message; check that nothing is left."""
    path = written(content, folder)
    before = set(folder.iterdir())
    target = folder / "plan.json"
    found = failure(capsys, ["plan", "fleet", str(path), "--output", str(target)])
    assert set(folder.iterdir()) == before
    return found
