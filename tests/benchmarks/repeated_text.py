"""How much of a text repeats itself: what drafters that copy live on."""

from collections import Counter
from collections.abc import Sequence

GRAM_TOKENS = 8


def repeated_fraction(prompt: Sequence[int], generated: Sequence[int]) -> float:
    """Return the share of generated tokens inside an 8-gram that occurs twice in the whole text.

    Args:
        prompt: Token ids before the generated ones; an 8-gram copied from here is repeated too.
        generated: Token ids that are counted; at least one.
    """
    text = [*prompt, *generated]
    starts = range(len(text) - GRAM_TOKENS + 1)
    grams = [tuple(text[start : start + GRAM_TOKENS]) for start in starts]
    counts = Counter(grams)
    repeated = {
        place
        for start, gram in zip(starts, grams, strict=True)
        if counts[gram] > 1
        for place in range(start, start + GRAM_TOKENS)
    }
    return sum(place >= len(prompt) for place in repeated) / len(generated)
