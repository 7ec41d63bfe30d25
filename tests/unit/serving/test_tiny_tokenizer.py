import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from serving.tiny.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer with a few merges, trained on one sentence of Python."""
    texts = ["def main(arguments):\n    return arguments\n"] * 3
    return train_tokenizer(texts, vocabulary_size=280, context_tokens=64)


@given(text=st.text(max_size=60))
@settings(max_examples=100, deadline=None)
def test_any_text_survives_the_round_trip(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    """Encoding and decoding returns every string of Unicode characters unchanged."""
    ids = tokenizer.backend_tokenizer.encode(text).ids
    assert tokenizer.decode(ids) == text


def test_special_tokens_have_the_ids_of_the_model_configuration(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """The ids that `ModelShape.llama` writes are the tokenizer's."""
    assert tokenizer.bos_token_id == 0
    assert tokenizer.pad_token_id == 1
    assert tokenizer.eos_token_id == 3
    assert tokenizer.convert_tokens_to_ids("<|endoftext|>") == 0


def test_chat_template_opens_the_answer(tokenizer: PreTrainedTokenizerFast) -> None:
    """A rendered chat closes each turn and begins the assistant's."""
    chat = [{"role": "user", "content": "hello"}]
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert text == "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
