"""Drafting without a model: what followed when the last tokens stood in the text before.

Source: Saxena 2023, prompt lookup decoding; the overlapping copy is that of Ziv and Lempel 1977.
"""

from collections.abc import Iterable


class NgramIndex:
    """Where each short run of a sequence's tokens was last followed by another token.

    Taking in a token costs one dictionary entry for each length of run, whatever came before.
    """

    def __init__(self, *, min_tokens: int = 2, max_tokens: int = 4) -> None:
        """Look up runs of `min_tokens` to `max_tokens`, the longest first.

        Raises:
            ValueError: If the range is empty or starts below 1.
        """
        if not 1 <= min_tokens <= max_tokens:
            raise ValueError(
                f"runs of {min_tokens} to {max_tokens} tokens are no range; start at 1 or more"
            )
        self._lengths = range(max_tokens, min_tokens - 1, -1)
        self._tokens: list[int] = []
        self._followers: dict[tuple[int, ...], int] = {}

    def __len__(self) -> int:
        """Tokens taken in."""
        return len(self._tokens)

    def extend(self, tokens: Iterable[int]) -> None:
        """Take in the next tokens of the sequence, in order."""
        for token in tokens:
            for run in self._suffixes():
                self._followers[run] = len(self._tokens)
            self._tokens.append(token)

    def propose(self, max_tokens: int) -> list[int]:
        """Return what followed the longest known suffix at its most recent earlier place.

        Where that place is close to the end, the copy goes on into itself: a text that repeats is
        guessed to repeat on. Empty where no suffix stood earlier.
        """
        for run in self._suffixes():
            start = self._followers.get(run)
            if start is not None:
                period = len(self._tokens) - start
                return [self._tokens[start + i % period] for i in range(max_tokens)]
        return []

    def _suffixes(self) -> Iterable[tuple[int, ...]]:
        """Yield the last tokens as runs of every length, the longest first."""
        end = len(self._tokens)
        return (tuple(self._tokens[end - length :]) for length in self._lengths if length <= end)
