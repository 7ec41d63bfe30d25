"""Pools: the names clients send in place of a model's, and what each of them may become."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router.choice_config import AUTO, ModelChoiceConfig, pool_problem
from router.errors import StartError
from router.prediction.predictor import Predictor


@dataclass(frozen=True, slots=True)
class Pool:
    """One name and its models."""

    name: str
    models: tuple[str, ...]
    columns: NDArray[np.intp] | None
    """Where each model stands in a prediction; None: nothing is predicted."""


def make_pools(
    config: ModelChoiceConfig, predictor: Predictor | None, models: Sequence[str]
) -> Mapping[str, Pool]:
    """Return the pools by name; `auto` is every model the predictor knows unless it is given.

    Args:
        config: The pools; their models exist.
        predictor: Tells which models are known; None: pools are those of the file.
        models: Of the file, in its order.

    Raises:
        StartError: If a pool names what is no model, or the predictor knows none of the models, or
            not every one of a pool.
    """
    problem = pool_problem(config, models)
    if problem is not None:  # models may come from a plan, after the file has been checked
        raise StartError(problem)
    members = dict(config.pools)
    if predictor is None:
        return {name: Pool(name, each, None) for name, each in members.items()}
    if AUTO not in members:
        known = tuple(model for model in models if model in predictor.models)
        if not known and not members:
            raise StartError(
                f"model_choice.predictor: {config.predictor} knows {_listed(predictor.models)} and "
                f"none of {_listed(models)}; train it with these models' scores"
            )
        members |= {AUTO: known} if known else {}
    places = {model: place for place, model in enumerate(predictor.models)}
    for name, each in members.items():
        unknown = [model for model in each if model not in places]
        if unknown:
            raise StartError(
                f"model_choice.pools.{name}: {config.predictor} does not know {_listed(unknown)}; "
                "train it with their scores, or take them out"
            )
    return {
        name: Pool(name, each, np.array([places[model] for model in each], dtype=np.intp))
        for name, each in members.items()
    }


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
