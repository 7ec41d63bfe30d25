"""`plan.json` as the router reads it: which replicas there should be, and where requests go.

The planner's document has far more; this is the part the router needs, and a document of a version
it does not know is refused.
"""

import logging
from pathlib import Path
from typing import Literal

from pydantic import ConfigDict

from planner.config import StrictModel
from planner.documents import read_document
from planner.errors import DocumentError
from planner.units import Count, Name, Tokens
from router.discovery.config import PlanSource

logger = logging.getLogger(__name__)


class _Part(StrictModel):
    """Some keys of a larger document."""

    model_config = ConfigDict(extra="ignore")


class PlanReplicas(_Part):
    """The replicas of one offer that serve one model."""

    model: Name
    """Served model."""
    offer: Name
    """What they run on."""
    replicas: Count
    """How many."""


class PlanWeights(_Part):
    """Where the requests of one model and range of input sizes go."""

    model: Name
    """Requested model."""
    input_tokens_up_to: Tokens
    """Longest input of the range."""
    weights: dict[Name, Count]
    """Offer to its share, relative to the others'."""


class PlanDocument(_Part):
    """A planned fleet."""

    schema_version: Literal[2]
    """Version of the layout."""
    kind: Literal["fleet-plan"]
    """What the document is."""
    oracle_shares: bool = False
    """Whether shares depend on output lengths, which no router knows."""
    replicas: tuple[PlanReplicas, ...]
    """By model, then offer."""
    weights: tuple[PlanWeights, ...]
    """By model, then range, rising."""


def planned_models(source: PlanSource) -> dict[str, dict[str, object]]:
    """Return the plan's models by name, with `replicas` and `weights` as the router's file has them.

    Raises:
        DocumentError: If the file is no plan the router can follow, or `addresses` name what is not
            in it.
    """
    plan = read_document(source.file, PlanDocument)
    if plan.oracle_shares:
        raise DocumentError(
            source.file, "oracle_shares: goes by output lengths, unknown to a router; plan without"
        )
    planned = {(row.model, row.offer): row.replicas for row in plan.replicas}
    _check_addresses(source, planned)
    models: dict[str, dict[str, object]] = {}
    for name in dict.fromkeys(row.model for row in plan.replicas):
        rows = [row for row in plan.weights if row.model == name]
        models[name] = {
            "replicas": [
                {"url": url, "offer": offer}
                for offer, urls in source.addresses.get(name, {}).items()
                for url in urls
            ],
            "weights": [row.model_dump(exclude={"model"}) for row in rows],
        }
    return models


def _check_addresses(source: PlanSource, planned: dict[tuple[str, str], int]) -> None:
    for model, offers in source.addresses.items():
        for offer, urls in offers.items():
            num_planned = planned.get((model, offer))
            if num_planned is None:
                raise DocumentError(
                    Path(source.file),
                    f"has no replica of model {model!r} on offer {offer!r}, which "
                    "discovery.sources.addresses names; remove it there",
                )
            if len(urls) != num_planned:
                logger.warning(
                    "addresses differ from the plan model=%s offer=%s num_addresses=%d num_planned=%d",
                    model,
                    offer,
                    len(urls),
                    num_planned,
                )
