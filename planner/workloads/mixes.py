"""Named kinds of traffic: how long their inputs and outputs are, and where that is from.

Input and output of a request are drawn independently. In the Azure conversation trace of 2023 their
rank correlation is 0.07.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from statistics import NormalDist


@dataclass(frozen=True, slots=True)
class LengthLaw:
    """Token counts known by some of their quantiles, log-linear in between."""

    fractions: tuple[float, ...]
    """Rising from 0 to 1."""
    tokens: tuple[float, ...]
    """The quantile at each fraction, never falling, at least 1."""

    def tokens_at(self, fraction: float) -> int:
        """Return the quantile at a fraction from 0 up to 1, as a whole number of tokens."""
        above = min(bisect_right(self.fractions, fraction), len(self.fractions) - 1)
        start, end = self.fractions[above - 1], self.fractions[above]
        low, high = math.log(self.tokens[above - 1]), math.log(self.tokens[above])
        return round(math.exp(low + (high - low) * (fraction - start) / (end - start)))


@dataclass(frozen=True, slots=True)
class Kind:
    """Requests of one kind."""

    input_tokens: LengthLaw
    output_tokens: LengthLaw


@dataclass(frozen=True, slots=True)
class Mix:
    """Kinds of requests that arrive side by side."""

    kinds: tuple[Kind, ...]
    weights: tuple[float, ...]
    """Share of each kind in all requests, in proportion."""
    source: str
    """Where the lengths are from."""

    def draw(self, number: int, generator: Random) -> tuple[list[int], list[int]]:
        """Return input and output tokens of a number of requests."""
        sums = list(accumulate(self.weights))
        kinds = generator.choices(self.kinds, cum_weights=sums, k=number)
        inputs = [kind.input_tokens.tokens_at(generator.random()) for kind in kinds]
        outputs = [kind.output_tokens.tokens_at(generator.random()) for kind in kinds]
        return inputs, outputs


_STEPS = (0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1)
_SPREAD = 0.8
"""Standard deviation of the logarithm of lengths of which only the mean is published."""


def _around(mean_tokens: float) -> LengthLaw:
    """Return a log-normal law of a mean, its ends at the quantiles 0.1 % and 99.95 %."""
    middle = math.log(mean_tokens) - _SPREAD**2 / 2
    normal = NormalDist(middle, _SPREAD)
    inner = (min(max(fraction, 0.001), 0.9995) for fraction in _STEPS)
    tokens = tuple(max(1.0, math.exp(normal.inv_cdf(fraction))) for fraction in inner)
    return LengthLaw(_STEPS, tokens)


_CHAT = Kind(
    LengthLaw(_STEPS, (2, 29, 181, 207, 396, 1020, 1189, 2735, 4083, 4142, 6179, 14_050)),
    LengthLaw(_STEPS, (7, 16, 41, 54, 85, 129, 395, 424, 451, 601, 954, 1000)),
)
# The published 50th, 90th and 99th percentile; nothing is known above. The least value is the one
# at which the mean comes out as published (2047.8 in, 27.9 out) within 2 %.
_CODE = Kind(
    LengthLaw((0, 0.5, 0.9, 0.99, 1), (75, 1469, 5194, 7436, 7436)),
    LengthLaw((0, 0.5, 0.9, 0.99, 1), (1, 13, 55, 252, 252)),
)
_SHORT_CHAT = Kind(_around(69.5), _around(214.5))
# 3,043 words an article and 215 a summary, at 4 tokens for 3 English words.
_LONG_INPUT = Kind(_around(3043 * 4 / 3), _around(215 * 4 / 3))

_INVENTED = "the spread around the means is ours"

MIXES = {
    "chat": Mix(
        (_CHAT,),
        (1,),
        "quantiles of the Azure LLM inference conversation trace of 2023 (CC-BY-4.0)",
    ),
    "code": Mix(
        (_CODE,), (1,), "percentiles of the Azure LLM inference code trace of 2023 (CC-BY-4.0)"
    ),
    "short-chat": Mix(
        (_SHORT_CHAT,),
        (1,),
        f"mean prompt and response of LMSYS-Chat-1M (arXiv 2309.11998, table 1); {_INVENTED}",
    ),
    "long-input": Mix(
        (_LONG_INPUT,),
        (1,),
        "mean article and summary of the PubMed summarization data of Cohan et al. 2018 (as counted "
        f"for its 119,924 training articles on its Hugging Face card); {_INVENTED}",
    ),
    "mixed-80-20": Mix(
        (_SHORT_CHAT, _LONG_INPUT),
        (80, 20),
        "80 % short-chat and 20 % long-input, as Mélange mixes its two (arXiv 2404.14527)",
    ),
}
"""Every mix by name."""
