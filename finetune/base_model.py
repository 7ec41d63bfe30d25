"""The base model: found, loaded, its tokenizer and chat template. The edge to transformers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
import transformers
from jinja2 import TemplateError
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from finetune.errors import BaseModelError
from planner.model_folder import incomplete_weights, weights_sha256

WEIGHT_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
"""What a hub model is fetched for; never pickled weights."""

Download = Callable[[str], str]
"""Fetches a hub model by id and returns its local folder."""


@dataclass(frozen=True, slots=True)
class ModelTokenizer:
    """How a base model reads text.

    Attributes:
        tokenizer: As transformers loads it.
    """

    tokenizer: Any

    def encode(self, document: str) -> list[int]:
        """Return a document's token ids, marked off from its neighbours.

        The beginning token stands in front; a model without one gets the end token behind.
        """
        encoded = self.tokenizer(document, add_special_tokens=False, verbose=False)
        ids: list[int] = list(encoded["input_ids"])
        first, last = self.tokenizer.bos_token_id, self.tokenizer.eos_token_id
        if first is not None:
            return ids if ids[:1] == [first] else [first, *ids]
        return ids if last is None else [*ids, last]

    def render_chat(self, messages: list[dict[str, Any]]) -> str:
        """Return a chat as text, by the model's own template.

        Raises:
            ValueError: If the model has no template, or it does not take these messages.
        """
        if not self.tokenizer.chat_template:
            raise ValueError("the base model has no chat template; give documents with a text")
        for message in messages:
            if not (isinstance(message, dict) and isinstance(message.get("role"), str)):
                raise ValueError("a message holds no role; give each a role and a content")
        try:
            return str(self.tokenizer.apply_chat_template(messages, tokenize=False))
        except (TemplateError, TypeError, KeyError) as error:
            raise ValueError(f"the chat template refuses the messages ({error})") from None


@dataclass(frozen=True, slots=True)
class BaseModel(ModelTokenizer):
    """A loaded base model.

    Attributes:
        folder: Local folder of its files.
        weights_sha256: Digest of its weights.
        model: The network, float32; on the CPU until it is trained elsewhere.
    """

    folder: Path
    weights_sha256: str
    model: PreTrainedModel

    @property
    def context_tokens(self) -> int | None:
        """Longest sequence the model takes, None if its configuration does not say."""
        value = getattr(self.model.config, "max_position_embeddings", None)
        return None if value is None else int(value)


def load_tokenizer(name: str) -> ModelTokenizer:
    """Load how a local folder, or a model of the hub, reads text; without its weights.

    Raises:
        BaseModelError: If it cannot be found or loaded.
    """
    folder = find_model(name)
    try:
        return ModelTokenizer(AutoTokenizer.from_pretrained(folder, local_files_only=True))
    except (OSError, ValueError, KeyError) as error:
        raise BaseModelError(
            f"model {name!r}: its tokenizer cannot be loaded ({_first_line(error)}); name a causal "
            "language model"
        ) from None


def load_base_model(name: str) -> BaseModel:
    """Load a local folder, or a model of the hub.

    Raises:
        BaseModelError: If it cannot be found or loaded, or lacks weights.
        DocumentError: If the folder holds no safetensors weights.
    """
    folder = find_model(name)
    digest = weights_sha256(folder)
    # Loading would draw a bar of its own into the run's.
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    # Of weights that do not fit it would print a table; our one line says the same.
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are in the report, with their names
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise BaseModelError(
            f"model {name!r} cannot be loaded ({_first_line(error)}); name a causal language model"
        ) from None
    model, report = loaded  # what loading information adds to the library's declared type
    _refuse_incomplete(report, name)
    return BaseModel(tokenizer, folder, digest, model)


def check_length(base: BaseModel, num_tokens: int, *, key: str, name: str) -> None:
    """Check that the model called `name` takes sequences as long as a job's `key` asks for.

    Raises:
        BaseModelError: If they are longer than its context.
    """
    longest = base.context_tokens
    if longest is not None and num_tokens > longest:
        raise BaseModelError(
            f"{key} {num_tokens} is more than the {longest} that {name!r} takes; lower it"
        )


def _refuse_incomplete(report: Mapping[str, Any], name: str) -> None:
    """Refuse weights that transformers would make up: what lacks or has another shape is random."""
    if wrong := incomplete_weights(report):
        raise BaseModelError(
            f"model {name!r}: its weights are not whole: {wrong}; fetch the model again"
        )


def find_model(name: str, *, download: Download | None = None) -> Path:
    """Return the local folder of a model, fetching it from the hub if `name` is no folder.

    Raises:
        BaseModelError: If there is no such folder, and no such model or no way to the hub.
    """
    folder = Path(name)
    if folder.is_dir():
        return folder
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise BaseModelError(f"model {name!r}: no such folder; check the path")
    try:
        return Path((download or _download)(name))
    except (OSError, ValueError) as error:
        raise BaseModelError(
            f"model {name!r} is neither a folder nor to be had from the hub "
            f"({_first_line(error)}); check the name"
        ) from None


def _download(name: str) -> str:
    return str(huggingface_hub.snapshot_download(name, allow_patterns=list(WEIGHT_FILES)))


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
