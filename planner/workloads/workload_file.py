"""The file `motley plan workload` writes: the section `workload` of a model in a fleet file."""

import textwrap
from collections.abc import Iterable

import yaml

from planner.config import StrictModel
from planner.workloads.workload import Workload


class WorkloadFile(StrictModel):
    """The section `workload` of a model in a fleet file, alone."""

    workload: Workload
    """Requests to serve."""


def workload_json(workload: Workload) -> str:
    """Return the section as JSON."""
    return (
        WorkloadFile(workload=_rounded(workload)).model_dump_json(indent=2, exclude_none=True)
        + "\n"
    )


def workload_yaml(workload: Workload, comments: Iterable[str]) -> str:
    """Return the section as YAML under a comment for each sentence."""
    lines = [line for text in comments for line in textwrap.wrap(text, width=96)]
    document = WorkloadFile(workload=_rounded(workload)).model_dump(mode="json", exclude_none=True)
    # Flow style for the innermost lists only: a row of a matrix is a line.
    body = yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=2**31)
    return "".join(f"# {line}\n" for line in lines) + body


def _rounded(workload: Workload) -> Workload:
    """Return the workload with nine digits a number, which keep every sum and every range."""

    def short(value: object) -> object:
        if isinstance(value, float):
            return float(f"{value:.9g}")
        return [short(item) for item in value] if isinstance(value, list | tuple) else value

    return Workload(**{name: short(value) for name, value in workload})
