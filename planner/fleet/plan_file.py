"""Reading a plan's document back, and refusing other versions by name."""

from pathlib import Path

from planner.documents import read_content, validated
from planner.errors import DocumentError
from planner.fleet.fleet_plan import SCHEMA_VERSION, FleetPlan


def read_plan(path: Path) -> FleetPlan:
    """Return the fleet plan in a JSON file.

    Raises:
        DocumentError: If it cannot be read, is no fleet plan, or one of another version.
    """
    content = read_content(path)
    kind, version = content.get("kind"), content.get("schema_version")
    if kind != "fleet-plan":
        raise DocumentError(
            path, f"is no fleet plan (kind {kind!r}); write one with `motley plan fleet --output`"
        )
    if version != SCHEMA_VERSION:
        raise DocumentError(
            path,
            f"is a fleet plan of schema_version {version!r}, this Motley reads {SCHEMA_VERSION}; "
            "plan again",
        )
    return validated(path, content, FleetPlan)
