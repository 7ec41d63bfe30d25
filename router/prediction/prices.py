"""What models cost: a JSON file of prices, and the cost of a prompt."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from planner.documents import read_text
from router.errors import TrainingDataError
from router.prediction.metrics import Array

ANSWER_TOKENS = 100
"""Output tokens that every answer is taken to have."""

_Usd = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Entry(BaseModel):
    """One model of the file; what else it says is passed over."""

    model_config = ConfigDict(extra="ignore")

    input_price: _Usd
    output_price: _Usd


_PRICES = TypeAdapter(dict[str, _Entry])


@dataclass(frozen=True, slots=True)
class Price:
    """What one model's tokens cost."""

    input_usd_per_million: float
    output_usd_per_million: float


def read_prices(path: Path) -> dict[str, Price]:
    """Return model to price, from `{MODEL: {"input_price": ..., "output_price": ...}}`.

    Prices are in dollars a million tokens.

    Raises:
        DocumentError: If the file cannot be read.
        TrainingDataError: If it holds no prices.
    """
    try:
        entries = _PRICES.validate_python(json.loads(read_text(path)))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise TrainingDataError(
            f"{path}: {where}: {first['msg']}; give each model input_price and output_price in "
            "dollars a million tokens"
        ) from None
    except (ValueError, RecursionError) as error:
        raise TrainingDataError(f"{path}: is not valid JSON: {error}; correct it") from None
    return {name: Price(one.input_price, one.output_price) for name, one in entries.items()}


def costs_usd(models: Sequence[str], prices: Mapping[str, Price], prompt_tokens: Array) -> Array:
    """Return input price times prompt tokens plus output price times `ANSWER_TOKENS`.

    Returns:
        Dollars. Shape: (num_prompts, num_models).

    Raises:
        TrainingDataError: If a model has no price.
    """
    missing = [model for model in models if model not in prices]
    if missing:
        raise TrainingDataError(f"model {missing[0]!r} has no price; add it to the prices file")
    per_input = np.array([prices[model].input_usd_per_million for model in models])
    per_output = np.array([prices[model].output_usd_per_million for model in models])
    result: Array = (
        np.asarray(prompt_tokens, dtype=np.float64)[:, None] * per_input
        + per_output * ANSWER_TOKENS
    ) / 1e6
    return result
