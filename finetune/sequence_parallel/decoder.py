"""The decoder inside what is trained: whether groups of ranks can share its rows, and its attention."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from finetune.errors import SequenceParallelError
from finetune.sequence_parallel.attention import NAME, SharedRow, model_name

_LAYER_KINDS = {"full_attention", "sliding_attention"}
"""Layers in which tokens meet in attention alone, all before or those of a window."""

_ROPE_BY_LENGTH = {"dynamic", "longrope"}
"""Rotary positions that depend on the longest position of a forward, which is the rank's own."""


class Decoder:
    """A causal language model of transformers, bare or inside a PEFT model.

    Attributes:
        num_query_heads: A group's degree must divide them.
    """

    def __init__(self, model: nn.Module) -> None:
        """Find it.

        Raises:
            SequenceParallelError: If its tokens meet elsewhere than in plain attention.
        """
        found = next((part for part in model.modules() if isinstance(part, PreTrainedModel)), None)
        if found is None:
            raise SequenceParallelError(
                f"{type(model).__name__} holds no model of transformers; load one by its name"
            )
        self._model = found
        self._config: Any = found.config.get_text_config()
        self._refuse_other_models()
        self.num_query_heads: int = self._config.num_attention_heads
        self._is_checked = False

    @contextmanager
    def sharing_attention(self) -> Iterator[None]:
        """Let the model attend through `shared_attention`; elsewhere it keeps its own.

        Raises:
            SequenceParallelError: If its attention cannot be replaced.
        """
        before = self._model.config._attn_implementation
        self._model.set_attn_implementation(NAME)
        try:
            if self._config._attn_implementation != NAME:
                raise SequenceParallelError(
                    f"{model_name(self._model)}: its attention cannot be replaced; train it on one "
                    "device, or take another architecture"
                )
            yield
        finally:
            self._model.set_attn_implementation(before)

    def check_calls(self, row: SharedRow) -> None:
        """Check after a first forward that every layer attended to the shared row.

        Raises:
            SequenceParallelError: If one did not: its tokens would not meet, or not as they should.
        """
        if self._is_checked:
            return
        expected = self._config.num_hidden_layers
        if row.num_calls != expected:
            raise SequenceParallelError(
                f"{model_name(self._model)}: {row.num_calls} of {expected} layers attend through "
                "transformers' interface; train it on one device, or take another architecture"
            )
        self._is_checked = True

    def _refuse_other_models(self) -> None:
        kinds = set(getattr(self._config, "layer_types", None) or ()) - _LAYER_KINDS
        if any(isinstance(part, nn.Conv1d) for part in self._model.modules()):
            kinds.add("convolution")
        rope = getattr(self._config, "rope_parameters", None) or {}
        of_kinds = [rope, *(value for value in rope.values() if isinstance(value, dict))]
        kinds |= {str(of.get("rope_type")) for of in of_kinds} & _ROPE_BY_LENGTH
        if kinds:
            raise SequenceParallelError(
                f"{model_name(self._model)}: {', '.join(sorted(kinds))} cannot be shared among "
                "ranks; train it on one device, or take another architecture"
            )
