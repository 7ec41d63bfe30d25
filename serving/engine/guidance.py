"""Token masks from JSON schemas, regular expressions and Lark grammars, by llguidance.

llguidance is one extension module without dependencies. A mask takes some ten microseconds.
"""

import json
import logging
from collections.abc import Iterable
from typing import Any, Literal, assert_never

import llguidance
import numpy as np
import torch
from torch import Tensor

from serving.errors import EngineError, RequestError

logger = logging.getLogger(__name__)

GrammarKind = Literal["json_schema", "regex", "lark"]


class GrammarCompiler:
    """Compiles grammars over one tokenizer."""

    def __init__(
        self, tokenizer_json: str, *, vocabulary_size: int, end_ids: Iterable[int]
    ) -> None:
        """Prepare the tokenizer's byte strings; takes up to a second.

        Args:
            tokenizer_json: What `tokenizers.Tokenizer.to_str` gives.
            vocabulary_size: Width of the model's logits; ids the tokenizer lacks are never allowed.
            end_ids: Ids that end a text, at least one.
        """
        self._end_ids = sorted(set(end_ids))
        self._vocabulary_size = vocabulary_size
        self._tokenizer = llguidance.LLTokenizer(tokenizer_json, eos_token=self._end_ids)

    def compile(self, kind: GrammarKind, source: str) -> "GuidanceMask":
        """Return the mask of a grammar at its start.

        Raises:
            RequestError: If the grammar is malformed, or asks for what llguidance cannot do.
        """
        try:
            grammar = _grammar(kind, source)
        except ValueError as error:
            raise RequestError(f"{kind} cannot be read: {error}; correct it") from None
        matcher = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0)
        if matcher.is_error():
            reason = matcher.get_error().partition("\n")[0]
            raise RequestError(f"{kind} is refused: {reason}; correct it")
        if warnings := matcher.get_grammar_warnings():
            # Their text repeats the client's; it is not logged.
            logger.warning("grammar honoured in part kind=%s num_warnings=%d", kind, len(warnings))
        return GuidanceMask(matcher, self._end_ids, self._vocabulary_size)


class GuidanceMask:
    """A matcher as a `TokenMask`."""

    def __init__(self, matcher: Any, end_ids: list[int], vocabulary_size: int) -> None:
        """Start where `matcher` stands."""
        self._matcher = matcher
        self._end_ids = end_ids
        self._vocabulary_size = vocabulary_size
        # A matcher that needs no more bytes refuses the end token: ends are counted here instead.
        self._num_ends = 0

    def advance(self, token: int) -> bool:
        """Take a token in; False, and nothing changes, where the grammar forbids it here."""
        if self._num_ends or token in self._end_ids:
            can_end = token in self._end_ids and self._matcher.is_accepting()
            self._num_ends += can_end
            return bool(can_end)
        return bool(self._matcher.try_consume_tokens([token]) == 1)

    def roll_back(self, num_tokens: int) -> None:
        """Forget the last tokens taken in."""
        num_ends = min(self._num_ends, num_tokens)
        self._num_ends -= num_ends
        if num_tokens > num_ends:
            done = self._matcher.rollback(num_tokens - num_ends)
            assert done, "only tokens that were taken in are forgotten"

    def allowed(self) -> Tensor:
        """Return which ids may come next. Shape: (V,).

        Raises:
            EngineError: If the grammar became too complex to follow.
        """
        allowed_V = torch.zeros(self._vocabulary_size, dtype=torch.bool)
        if self._num_ends:
            allowed_V[self._end_ids] = True
            return allowed_V
        packed = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self._matcher.is_error():
            reason = self._matcher.get_error().partition("\n")[0]
            raise EngineError(f"the grammar cannot be followed: {reason}; simplify it")
        known = np.unpackbits(packed, bitorder="little")[: self._vocabulary_size]
        allowed_V[: len(known)] = torch.from_numpy(known).view(torch.bool)
        return allowed_V


def _grammar(kind: GrammarKind, source: str) -> str:
    if kind == "json_schema":
        schema = json.loads(source)
        return str(llguidance.LLMatcher.grammar_from_json_schema(schema))
    if kind == "regex":
        return str(llguidance.LLMatcher.grammar_from_regex(source))
    if kind == "lark":
        return str(llguidance.LLMatcher.grammar_from_lark(source))
    assert_never(kind)
