"""Which idle clients take part in a round.

Every draw starts a generator from the seed and the number of the draw, so that a resumed run needs
nothing else to draw the same.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from planner.config import StrictModel


class AllClients(StrictModel):
    """Every idle client."""

    kind: Literal["all"] = "all"
    """Chooses this kind."""


class UniformSample(StrictModel):
    """So many idle clients, drawn without replacement."""

    kind: Literal["uniform"] = "uniform"
    """Chooses this kind."""
    num_clients: int = Field(gt=0)
    """All of them where fewer are idle."""


class SpeedTiers(StrictModel):
    """Clients of about one speed: a tier is drawn, then clients of it.

    Clients whose speed is unknown are drawn first. Source: Chai et al. 2020 (TiFL, arXiv
    2001.09249), with tiers of equal probability.
    """

    kind: Literal["speed-tiers"] = "speed-tiers"
    """Chooses this kind."""
    num_tiers: int = Field(gt=0)
    """Tiers of about equal size, from the fastest to the slowest."""
    num_clients: int = Field(gt=0)
    """Drawn from the tier without replacement; all of it where it is smaller."""


Selection = Annotated[AllClients | UniformSample | SpeedTiers, Field(discriminator="kind")]


def select(
    selection: AllClients | UniformSample | SpeedTiers,
    idle: Sequence[str],
    seconds_per_step: Mapping[str, float],
    *,
    seed: int,
    draw: int,
) -> list[str]:
    """Return the chosen of the idle clients, in their order.

    Args:
        selection: How to choose.
        idle: Names to choose from.
        seconds_per_step: Speeds that are known.
        seed: Of the run.
        draw: Number of draws before this one.
    """
    if isinstance(selection, AllClients) or not idle:
        return list(idle)
    generator = generator_of_draw(seed, draw)
    if isinstance(selection, SpeedTiers):
        idle = _tier(idle, seconds_per_step, selection.num_tiers, generator)
    count = min(selection.num_clients, len(idle))
    return [idle[i] for i in sorted(generator.choice(len(idle), count, replace=False).tolist())]


def generator_of_draw(seed: int, draw: int) -> np.random.Generator:
    """Return the generator of one draw."""
    return np.random.default_rng((seed, draw))


def _tier(
    idle: Sequence[str],
    seconds_per_step: Mapping[str, float],
    num_tiers: int,
    generator: np.random.Generator,
) -> list[str]:
    unknown = [name for name in idle if name not in seconds_per_step]
    if unknown:
        return unknown
    ranked = sorted(idle, key=lambda name: (seconds_per_step[name], name))
    tiers = np.array_split(np.arange(len(ranked)), min(num_tiers, len(ranked)))
    return [ranked[i] for i in tiers[generator.integers(len(tiers))]]
