"""The text and bytes of single tokens, and log-probabilities in OpenAI's two shapes."""

import codecs
import functools
import json
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from serving.engine.sampling import TokenLogprobs

LOWEST_LOGPROB = -9999.0
"""Stands for a probability of 0, which JSON cannot hold; vLLM's value."""

ScoredToken = tuple[int, TokenLogprobs | None]
"""A token id and its log-probabilities; None for the first token of a prompt, which has none."""


class TokenTexts:
    """What each id of one tokenizer stands for."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Read `tokenizer`'s vocabulary as it is asked for."""
        self._tokenizer = tokenizer
        decoder = json.loads(tokenizer.backend_tokenizer.to_str())["decoder"]
        self._is_byte_level = "ByteLevel" in json.dumps(decoder)
        chars: dict[int, str] = bytes_to_unicode()  # type: ignore[no-untyped-call]
        self._byte_of = {char: byte for byte, char in chars.items()}
        self._added = tokenizer.added_tokens_decoder
        self.bytes_of = functools.lru_cache(1 << 16)(self._bytes_of)

    def _bytes_of(self, token: int) -> bytes:
        """Return the bytes a token adds to a text; none for an id without a token."""
        if token in self._added:
            return str(self._added[token].content).encode()
        piece: str | None = self._tokenizer.backend_tokenizer.id_to_token(token)
        if piece is None:
            return b""
        if self._is_byte_level and all(char in self._byte_of for char in piece):
            return bytes(self._byte_of[char] for char in piece)
        if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
            return bytes([int(piece[3:5], 16)])
        return piece.replace("▁", " ").encode()

    def text_of(self, token: int) -> str:
        r"""Return a token's text; what is no whole character as OpenAI's `bytes:\x..`."""
        raw = self.bytes_of(token)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)

    def chat_logprobs(self, tokens: Sequence[ScoredToken]) -> dict[str, Any]:
        """Return the `logprobs` of a chat choice."""
        return {"content": [self._chat_entry(*token) for token in tokens], "refusal": None}

    def _chat_entry(self, token: int, scores: TokenLogprobs | None) -> dict[str, Any]:
        assert scores is not None, "only a prompt's first token has none"
        top = [self._scored(other, logprob) for other, logprob in scores.top]
        return self._scored(token, scores.logprob) | {"top_logprobs": top}

    def _scored(self, token: int, logprob: float) -> dict[str, Any]:
        raw = self.bytes_of(token)
        text = raw.decode(errors="replace")
        return {"token": text, "logprob": _finite(logprob), "bytes": list(raw)}


class LegacyLogprobs:
    """The `logprobs` of one completion choice, chunk by chunk; it counts the text's offsets."""

    def __init__(self, texts: TokenTexts) -> None:
        """Start at offset 0."""
        self._texts = texts
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def take(self, tokens: Sequence[ScoredToken]) -> dict[str, Any]:
        """Return the logprobs of the next tokens."""
        offsets = []
        for token, _ in tokens:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(self._texts.bytes_of(token)))
        return {
            "tokens": [self._texts.text_of(token) for token, _ in tokens],
            "token_logprobs": [s and _finite(s.logprob) for _, s in tokens],
            "top_logprobs": [self._top(token, scores) for token, scores in tokens],
            "text_offset": offsets,
        }

    def _top(self, token: int, scores: TokenLogprobs | None) -> dict[str, float] | None:
        if scores is None or not scores.top:
            return None
        # The emitted token is listed too, likely or not.
        pairs = (*scores.top, (token, scores.logprob))
        return {self._texts.text_of(other): _finite(logprob) for other, logprob in pairs}


def _finite(logprob: float) -> float:
    return max(logprob, LOWEST_LOGPROB)
