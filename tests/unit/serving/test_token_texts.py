"""Tokens as text and bytes, and log-probabilities in OpenAI's shapes."""

import pytest
from transformers import AutoTokenizer

from serving.engine.sampling import TokenLogprobs
from serving.token_texts import LOWEST_LOGPROB, LegacyLogprobs, TokenTexts


@pytest.fixture(scope="module")
def tokenizer(tiny_family):
    return AutoTokenizer.from_pretrained(tiny_family / "target")


@pytest.mark.parametrize("text", ["def f(x):\n\treturn x", "naïve ✓ 日本 🙂", "<|im_start|>a"])
def test_the_bytes_of_tokens_are_the_text(tokenizer, text):
    """Also where a character is spread over several tokens, and for special ones."""
    texts = TokenTexts(tokenizer)
    ids = tokenizer.encode(text)
    assert b"".join(texts.bytes_of(i) for i in ids).decode() == text


def test_a_part_of_a_character_is_shown_as_bytes(tokenizer):
    """OpenAI's notation, and offsets count whole characters."""
    texts = TokenTexts(tokenizer)
    ids = tokenizer.encode("a🙂b")
    scored = [(i, TokenLogprobs(-1.0, 1, ((i, -1.0),))) for i in ids]
    legacy = LegacyLogprobs(texts).take(scored)
    assert any(token.startswith("bytes:\\xf0") for token in legacy["tokens"])
    assert legacy["text_offset"][-1] == len("a🙂")


def test_probabilities_of_zero_are_numbers(tokenizer):
    """JSON has no infinity."""
    scored = [(5, TokenLogprobs(float("-inf"), 1, ((5, float("-inf")),)))]
    chat = TokenTexts(tokenizer).chat_logprobs(scored)
    assert chat["content"][0]["logprob"] == LOWEST_LOGPROB
