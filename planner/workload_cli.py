"""`motley plan workload`: a trace, or a synthetic mix, as the workload of a fleet file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.console import configure_logging, output

if TYPE_CHECKING:
    from planner.trace import Trace
