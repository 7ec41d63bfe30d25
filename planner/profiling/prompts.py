"""Prompts of an exact number of tokens, no two alike, so that no prefix cache answers them.

Nor are they those of an earlier measurement, which the endpoint may still hold: they have no seed.
"""

from random import Random

from planner.errors import EndpointError
from planner.profiling.endpoint import Endpoint, Prompt

_IDS = range(256, 1024)
"""Ordinary tokens in every byte-level vocabulary: past the bytes and the usual special tokens."""

_WORDS = [
    *("the", "of", "and", "to", "in", "is", "was", "for", "on", "as", "with", "by", "at", "from"),
    *("it", "be", "this", "had", "not", "are", "but", "which", "one", "were", "all", "their"),
    *("there", "been", "many", "some", "more", "when", "who", "will", "time", "about", "other"),
]
"""Words that are one token each in most vocabularies."""

_MOST_TRIES = 6
_OFF_FRACTION = 0.02
"""How far a text may miss its length; what the endpoint counted is what the profile records."""


class PromptMaker:
    """Makes prompts for one endpoint; `calibrate` each length before its first prompt."""

    def __init__(self, endpoint: Endpoint) -> None:
        """Make prompts this endpoint takes."""
        self._endpoint = endpoint
        self._random = Random()
        self._words: dict[int, int] = {}

    async def calibrate(self, num_tokens: int) -> None:
        """Find out how many words make a length, where the endpoint takes text only.

        Raises:
            EndpointError: If the length cannot be met, or a request fails.
        """
        if num_tokens in self._words:
            return
        if self._endpoint.takes_token_ids:
            await self._check_ids(num_tokens)
            return
        num_words = num_tokens
        for _ in range(_MOST_TRIES):
            counted = await self._count(self._text(num_words))
            if abs(counted - num_tokens) <= _OFF_FRACTION * num_tokens:
                self._words[num_tokens] = num_words
                return
            num_words = max(1, num_words + num_tokens - counted)
        raise EndpointError(
            f"{self._endpoint.url}: no text of {num_tokens} tokens was found, {num_words} words "
            f"gave {counted}; profile another length"
        )

    def make(self, num_tokens: int) -> Prompt:
        """Return a new prompt of a calibrated length."""
        if self._endpoint.takes_token_ids:
            return self._random.choices(_IDS, k=num_tokens)
        return self._text(self._words[num_tokens])

    async def _check_ids(self, num_tokens: int) -> None:
        counted = await self._count(self.make(num_tokens))
        if counted != num_tokens:
            raise EndpointError(
                f"{self._endpoint.url} counts {counted} tokens in a prompt of {num_tokens} ids; "
                "an endpoint that changes prompts cannot be profiled by length"
            )
        self._words[num_tokens] = num_tokens

    async def _count(self, prompt: Prompt) -> int:
        answer = await self._endpoint.complete(prompt, max_tokens=1)
        if answer.failure is not None:
            raise EndpointError(f"{self._endpoint.url}: a request failed ({answer.failure})")
        return answer.input_tokens

    def _text(self, num_words: int) -> str:
        return " ".join(self._random.choices(_WORDS, k=num_words))
