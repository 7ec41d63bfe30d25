"""What is known of a model besides how good it is: the facts that goals are judged by."""

from datetime import date
from typing import Annotated

from pydantic import Field

from planner.config import StrictModel
from planner.units import Number, Tokens

_Usd = Annotated[Number, Field(ge=0)]
_Fraction = Annotated[Number, Field(ge=0, le=1)]
_Parameters = Annotated[Number, Field(gt=0)]


class ModelFacts(StrictModel):
    """Facts of one model; what is left out is unknown, and counts as the worst of those compared."""

    parameters: _Parameters | None = None
    """How many parameters it has, such as `8.0e9`; the goal `smallest` compares them."""
    active_parameters: _Parameters | None = None
    """How many take part in one token, where experts are mixed; without it all do."""
    price_input_usd_per_million: _Usd | None = None
    """Of a million prompt tokens; with the next the goal `cheapest`, and what budgets count."""
    price_output_usd_per_million: _Usd | None = None
    """Of a million generated tokens."""
    released: date | None = None
    """The day it came out, such as `2026-05-01`; the goal `newest` compares ages."""
    is_local: bool = False
    """Whether prompts to it stay inside the trust boundary; the goal `most secure` asks for it."""
    readability: _Fraction | None = None
    """How easily its answers are read, from 0 to 1, by a measure of your own; `most readable`."""
    mean_output_tokens: Annotated[Number, Field(gt=0)] | None = None
    """Of an answer: the goal `shortest`. Without it the mean of the answers seen so far counts."""
    context_tokens: Tokens | None = None
    """The longest prompt and answer together; models too short for a request are not chosen."""
