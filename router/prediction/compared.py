"""The models that an explanation compares, and what a prompt would be with each of them."""

import math
import time
from collections.abc import Sequence
from pathlib import Path

from router.base import Query
from router.choice_config import AUTO
from router.config import RouterConfig
from router.errors import TrainingDataError
from router.facts import ModelFacts
from router.fleet import Fleet
from router.goal_costs import Expectation
from router.input_size import START_TOKENS_PER_BYTE
from router.model_standing import FleetStanding
from router.output_length import OutputLengths
from router.pool_choice import expected_of, fitting
from router.prediction.prices import ANSWER_TOKENS, read_prices


def by_prices(prompt: str, models: Sequence[str], prices: Path | None) -> dict[str, Expectation]:
    """Return every model with its price, where there is a file of them.

    Raises:
        DocumentError: If the file cannot be read.
        TrainingDataError: If it holds no prices, or a model has none.
    """
    known = None if prices is None else read_prices(prices)
    num_tokens = math.ceil(len(prompt.encode("utf-8", "replace")) * START_TOKENS_PER_BYTE)
    found = {}
    for model in models:
        facts = ModelFacts()
        if known is not None:
            if model not in known:
                raise TrainingDataError(f"model {model!r} has no price; add it to the prices file")
            facts = ModelFacts(
                price_input_usd_per_million=known[model].input_usd_per_million,
                price_output_usd_per_million=known[model].output_usd_per_million,
            )
        found[model] = Expectation(facts, num_tokens, ANSWER_TOKENS, None, None)
    return found


def by_router_file(
    prompt: str, models: Sequence[str], config: RouterConfig
) -> dict[str, Expectation]:
    """Return the models of the pool `auto` that a router of this file could ask, all of them well.

    Such a router has seen no answer yet: every speed is unknown, and so are lengths that the file
    does not state.

    Raises:
        TrainingDataError: If the predictor knows none of the file's models.
    """
    body = {"messages": [{"role": "user", "content": prompt}]}
    standing = FleetStanding(Fleet(config.models), OutputLengths(), monotonic=time.monotonic)
    facts = {model.name: model for model in config.models}
    pools = {} if config.model_choice is None else config.model_choice.pools
    pool = [model for model in pools.get(AUTO, facts) if model in models]
    if not pool:
        raise TrainingDataError(
            f"the predictor knows none of the router's models ({', '.join(facts)}); name the file "
            "that it was trained for"
        )
    query = Query(model=AUTO, fields=body)
    return fitting({model: expected_of(model, facts[model], query, standing) for model in pool})
