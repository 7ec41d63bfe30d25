import random

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from serving.detokenizer import StreamingText


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Return a byte-level tokenizer without merges: one token a byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def stream(tokenizer: Tokenizer, text: str, stops: list[str]) -> tuple[list[str], bool]:
    streaming = StreamingText(tokenizer, stops)
    pieces = []
    for token in tokenizer.encode(text).ids:
        pieces.append(streaming.push(token))
        if streaming.is_stopped:
            return pieces, True
    return [*pieces, streaming.finish()], False


@pytest.mark.parametrize("text", ["plain", "naïve café", "日本語 🙂 ok", "tab\tnew\nline"])
def test_pieces_join_to_the_text(tokenizer, text):
    """Whatever is streamed joins to the text, and no piece holds a broken character."""
    pieces, _ = stream(tokenizer, text, [])
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_stop_string_and_what_follows_never_show(tokenizer):
    """The text ends before the stop string, in whichever pieces it arrives."""
    pieces, stopped = stream(tokenizer, "one two END three", ["END"])
    assert stopped
    assert "".join(pieces) == "one two "


def test_the_start_of_a_stop_string_is_held_until_it_is_certain(tokenizer):
    """A near miss is released late, not lost."""
    pieces, stopped = stream(tokenizer, "ENEND", ["ENX"])
    assert not stopped
    assert "".join(pieces) == "ENEND"
    assert pieces[:2] == ["", ""]


def test_the_earliest_of_several_stops_wins(tokenizer):
    """With overlapping stops the text is cut at the first place any of them begins."""
    assert "".join(stream(tokenizer, "abcdef", ["def", "cd"])[0]) == "ab"


def test_random_stops_cut_as_they_do_on_the_whole_text(tokenizer):
    """Streaming equals finding the stop that completes first in the finished text."""
    generator = random.Random(5)
    for _ in range(300):
        text = "".join(generator.choice("ab") for _ in range(12))
        stop = "".join(generator.choice("ab") for _ in range(3))
        pieces, stopped = stream(tokenizer, text, [stop])
        assert "".join(pieces) == text.split(stop, 1)[0]
        assert stopped == (stop in text)
