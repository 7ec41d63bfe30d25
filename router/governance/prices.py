"""What tokens cost, by model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from router.config import ModelConfig
from router.governance.tenant import NANOUSD_PER_USD

_PER_MILLION = NANOUSD_PER_USD / 1e6


@dataclass(frozen=True, slots=True)
class Price:
    """Of one token, in billionths of a dollar."""

    prompt_nanousd: float
    completion_nanousd: float

    def cost_nanousd(self, prompt_tokens: int, completion_tokens: int) -> int:
        """Return what these tokens cost."""
        cost = prompt_tokens * self.prompt_nanousd + completion_tokens * self.completion_nanousd
        return round(cost)


class Prices:
    """The configured models' prices; a name without an entry costs as much as the dearest."""

    def __init__(self, models: Sequence[ModelConfig]) -> None:
        """Read the models' price fields; a price that is not stated is 0."""
        self._prices = {
            model.name: Price(
                (model.price_input_usd_per_million or 0.0) * _PER_MILLION,
                (model.price_output_usd_per_million or 0.0) * _PER_MILLION,
            )
            for model in models
        }
        self.unpriced = tuple(
            model.name
            for model in models
            if model.price_input_usd_per_million is None
            or model.price_output_usd_per_million is None
        )
        """Models that state no price for input or output."""

    def of(self, model: str, *, allowed: Callable[[str], bool] = lambda _: True) -> Price:
        """Return a model's price.

        Adapters, pools and other names that have no entry of their own take the highest prices of
        the models that are `allowed`, of all models where none is.
        """
        price = self._prices.get(model)
        if price is not None:
            return price
        some = [price for name, price in self._prices.items() if allowed(name)]
        chosen = some or [*self._prices.values()]
        return Price(
            max(each.prompt_nanousd for each in chosen),
            max(each.completion_nanousd for each in chosen),
        )
