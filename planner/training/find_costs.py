"""Costs of training: published ones by name, or a file that `--calibrate` wrote."""

from pathlib import Path
from typing import Literal

from planner.config import StrictModel
from planner.documents import read_document
from planner.errors import UnknownNameError
from planner.hardware.catalogue import read_packaged
from planner.training.sequence_costs import SequenceCosts


class PublishedCosts(StrictModel):
    """The built-in list."""

    schema_version: Literal[1]
    """Version of this file's layout."""
    costs: tuple[SequenceCosts, ...]
    """One entry a model and cluster."""


def published_costs(name: str) -> SequenceCosts:
    """Return built-in costs, such as `flexsp-7b`.

    Raises:
        UnknownNameError: If none are called so.
    """
    known = {
        costs.name: costs for costs in read_packaged("training_costs.yaml", PublishedCosts).costs
    }
    if name not in known:
        raise UnknownNameError("set of training costs", name, known, "name one, or a file of them")
    return known[name]


def find_costs(name: str) -> SequenceCosts:
    """Return the costs in a file, or the published ones of that name.

    A name with a `/` or a suffix of YAML or JSON is a file.

    Raises:
        DocumentError: If the file cannot be read or breaks the schema.
        UnknownNameError: If it is no file's name and no published costs are called so.
    """
    path = Path(name).expanduser()
    if "/" in name or path.suffix in (".yaml", ".yml", ".json") or path.is_file():
        return read_document(path, SequenceCosts)
    return published_costs(name)
