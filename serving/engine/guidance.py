"""Token masks from JSON schemas, regular expressions and grammars, by llguidance.

llguidance is one extension module without dependencies. A mask takes some ten microseconds.
"""

import functools
import json
import logging
from collections.abc import Iterable
from typing import Any

import llguidance
import numpy as np
import torch
from torch import Tensor

from serving.engine.grammar import GrammarKind, GrammarSource
from serving.errors import ModelError, RequestError

logger = logging.getLogger(__name__)

MOST_SOURCE_CHARACTERS = 1 << 18
"""Longest source: what is kept of compiled grammars stays small beside a model."""
_MOST_KEPT = 64
"""Compiled grammars that are kept for the next request; the one unused for longest goes first."""
_WHITESPACE = r"[\x20\x0A\x0D\x09]{1,64}"
"""Between the parts of a JSON document. Without an end, a model may never leave it."""


class GrammarCompiler:
    """Compiles grammars over one tokenizer; may be asked by several threads."""

    def __init__(
        self,
        tokenizer_json: str,
        *,
        vocabulary_size: int,
        end_ids: Iterable[int],
        most_lexer_states: int = 20_000,
    ) -> None:
        """Prepare the tokenizer's byte strings; takes up to a second.

        Args:
            tokenizer_json: What `tokenizers.Tokenizer.to_str` gives.
            vocabulary_size: Width of the model's logits; ids the tokenizer lacks are never allowed.
            end_ids: Ids that end a text, at least one.
            most_lexer_states: States a grammar's automaton may grow to, one to two kilobytes each.

        Raises:
            ModelError: If the tokenizer is of a kind that llguidance cannot read.
        """
        self._end_ids = sorted(set(end_ids))
        self._vocabulary_size = vocabulary_size
        try:
            self._tokenizer = llguidance.LLTokenizer(tokenizer_json, eos_token=self._end_ids)
        except ValueError as error:
            raise ModelError(f"tokenizer: {_line(str(error))}") from None
        self._limits = llguidance.LLParserLimits(
            max_lexer_states=most_lexer_states, verbose_errors=False
        )
        self._kept = functools.lru_cache(_MOST_KEPT)(self._compile)

    def compile(self, kind: GrammarKind, source: str) -> "GuidanceGrammar":
        """Return a grammar, compiled or kept from before; takes milliseconds, at worst a second.

        Args:
            kind: What `source` is.
            source: A JSON schema; a regular expression; choices as a JSON list of strings; or a
                grammar in Lark's notation or GBNF.

        Raises:
            RequestError: If the grammar is malformed, or asks for what llguidance cannot do.
        """
        if len(source) > MOST_SOURCE_CHARACTERS:
            raise RequestError(
                f"{kind} has {len(source)} characters, above {MOST_SOURCE_CHARACTERS}; shorten it"
            )
        found = self._kept(kind, source)
        if found.error is None:
            return found
        logger.warning("grammar compiled anew kind=%s reason=%s", kind, found.error)
        self._kept.cache_clear()
        return self._kept(kind, source)

    def _compile(self, kind: GrammarKind, source: str) -> "GuidanceGrammar":
        try:
            grammar = _grammar(kind, source)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"{kind} cannot be read: {_line(str(error))}; correct it") from None
        matcher = llguidance.LLMatcher(self._tokenizer, grammar, log_level=0, limits=self._limits)
        if not matcher.is_error():
            # The first mask takes milliseconds: here, and not in the engine's thread.
            matcher.compute_bitmask()
        if matcher.is_error():
            raise RequestError(f"{kind} is refused: {_line(matcher.get_error())}; correct it")
        if warnings := matcher.get_grammar_warnings():
            # Their text repeats the client's; it is not logged.
            logger.warning("grammar honoured in part kind=%s num_warnings=%d", kind, len(warnings))
        return GuidanceGrammar(
            matcher,
            self._end_ids,
            self._vocabulary_size,
            self._tokenizer.vocab_size,
            GrammarSource(kind, source),
        )


class GuidanceGrammar:
    """A matcher that stays at its start, as a `Grammar`.

    Its masks share one automaton, which grows as they are followed. Where it reaches its limit, no
    mask of it can be relied on any more: all of them report the error.
    """

    def __init__(
        self,
        matcher: Any,
        end_ids: list[int],
        vocabulary_size: int,
        num_known_ids: int,
        source: GrammarSource,
    ) -> None:
        """Keep a matcher that has taken nothing in."""
        self._matcher = matcher
        self.source = source
        """What it was compiled from."""
        self.num_known_ids = num_known_ids
        """Ids of the tokenizer; the model's own may be more."""
        self.end_ids = end_ids
        self.vocabulary_size = vocabulary_size
        self.error: str | None = None
        """Why the grammar can no longer be followed."""

    def start(self) -> "GuidanceMask":
        """Return a mask of its own for one request; takes microseconds."""
        return GuidanceMask(self, self._matcher.deep_copy())


class GuidanceMask:
    """A matcher as a `TokenMask`."""

    def __init__(self, grammar: GuidanceGrammar, matcher: Any) -> None:
        """Start where `matcher` stands."""
        self._grammar = grammar
        self._matcher = matcher
        # A matcher that needs no more bytes refuses the end token: ends are counted here instead.
        self._num_ends = 0

    @property
    def is_finished(self) -> bool:
        """Whether the text is whole: it has ended, or nothing but its end may follow."""
        return self.error is None and (self._num_ends > 0 or bool(self._matcher.is_stopped()))

    @property
    def error(self) -> str | None:
        """Why the grammar can no longer be followed: it became too complex."""
        if self._grammar.error is None and self._matcher.is_error():
            self._grammar.error = _line(self._matcher.get_error())
        return self._grammar.error

    def advance(self, token: int) -> bool:
        """Take a token in; False, and nothing changes, where the grammar forbids it here."""
        end_ids = self._grammar.end_ids
        if self._num_ends or token in end_ids:
            can_end = token in end_ids and self._matcher.is_accepting()
            self._num_ends += can_end
            return bool(can_end)
        if token >= self._grammar.num_known_ids:
            return False  # padding of the embedding, which the matcher would take for a failure
        is_taken = bool(self._matcher.try_consume_tokens([token]) == 1)
        return is_taken and self.error is None

    def roll_back(self, num_tokens: int) -> None:
        """Forget the last tokens taken in."""
        num_ends = min(self._num_ends, num_tokens)
        self._num_ends -= num_ends
        if num_tokens > num_ends:
            done = self._matcher.rollback(num_tokens - num_ends)
            assert done or self.error, "only tokens that were taken in are forgotten"

    def allowed(self) -> Tensor:
        """Return which ids may come next; none in a dead end, which fails the request. Shape: (V,)."""
        allowed_V = torch.zeros(self._grammar.vocabulary_size, dtype=torch.bool)
        if self._num_ends:
            allowed_V[self._grammar.end_ids] = True
            return allowed_V
        packed = np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8)
        if self.error is not None:
            return allowed_V.fill_(True)
        known = np.unpackbits(packed, bitorder="little")[: len(allowed_V)]
        allowed_V[: len(known)] = torch.from_numpy(known).view(torch.bool)
        if not self._matcher.is_accepting():
            # A grammar may name the end of text as one of its words; here a text has one end only.
            allowed_V[self._grammar.end_ids] = False
        return allowed_V


def _grammar(kind: GrammarKind, source: str) -> str:
    """Return what a matcher takes.

    Raises:
        ValueError: If the source is no JSON, or no grammar of a known notation.
    """
    if kind != "json_schema":
        return str(llguidance.grammar_from(kind, source))
    schema = json.loads(source)
    options = {"whitespace_pattern": _WHITESPACE}
    return str(llguidance.LLMatcher.grammar_from_json_schema(schema, defaults=options))


def _line(reason: str) -> str:
    """Return a reason as one line, cut to what a message may hold."""
    return " ".join(reason.replace("<non-verbose/>", "").split())[:200]
