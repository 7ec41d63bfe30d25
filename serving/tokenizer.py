"""The tokenizer of a model: the endpoint and the engine's process each have their own."""

import logging

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from serving.errors import ModelError


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load from a local folder or by hub id.

    Raises:
        ModelError: If there is none, or none that is fast.
    """
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{name}: its tokenizer cannot be loaded ({reason})") from error
    if not tokenizer.is_fast:
        raise ModelError(f"{name}: has no fast tokenizer; add a tokenizer.json to its folder")
    return tokenizer


def quieten_transformers() -> None:
    """Switch off progress bars, and warnings that our own messages replace."""
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    # Both libraries tell of each retry in paragraphs; our one line says what failed.
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.getLogger("huggingface_hub").setLevel(logging.CRITICAL)
