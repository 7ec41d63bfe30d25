"""How many tokens a request may take, before any tokenizer has seen it."""

import math
from collections.abc import Mapping

from router.input_size import START_TOKENS_PER_BYTE
from router.prompt_size import PromptSize

_MOST_TOKENS = 1_000_000_000


def prompt_tokens(size: PromptSize) -> int:
    """Return an estimate of the input: a quarter of a token a byte of text, ids counted."""
    return max(1, size.id_tokens + round(size.text_bytes * START_TOKENS_PER_BYTE))


def most_completion_tokens(fields: Mapping[str, object], *, assumed: int) -> int:
    """Return what the body lets the model generate, over all its choices.

    Args:
        fields: The parsed body.
        assumed: For one choice, where the body states no limit.
    """
    stated = fields.get("max_completion_tokens")
    if stated is None:
        stated = fields.get("max_tokens")
    each = _count(stated)
    if each is None:
        each = assumed
    num_prompts = _num_prompts(fields.get("prompt"))
    num_choices = max(1, _count(fields.get("n")) or 1, _count(fields.get("best_of")) or 1)
    return min(each * num_choices * num_prompts, _MOST_TOKENS)


def _count(value: object) -> int | None:
    """Return a whole number of the body, None for anything else: the replica judges that."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return min(max(0, int(value)), _MOST_TOKENS)


def _num_prompts(prompt: object) -> int:
    """Return how many prompts `/v1/completions` was given: a list of texts or of lists of ids."""
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):
        return len(prompt)
    return 1
