"""Which tokens a client trains on and is judged on."""

import numpy as np
import pytest

from finetune.token_windows import (
    held_out_windows,
    num_windows,
    round_generator,
    token_stream,
    training_batches,
)


def batches(tokens, *, generator, num_steps=3, batch_size=2, sequence_tokens=4):
    """Return training batches with small defaults."""
    return training_batches(
        tokens,
        sequence_tokens=sequence_tokens,
        batch_size=batch_size,
        num_steps=num_steps,
        generator=generator,
    )


def test_stream_joins_documents():
    """Tokens of all documents stand in one row."""
    stream = token_stream(["ab", "c"], lambda text: [ord(letter) for letter in text])
    assert stream.tolist() == [97, 98, 99]
    assert len(token_stream([], ord)) == 0


def test_batches_are_runs_of_the_stream():
    """Each row is a stretch of the stream with its next token, and none repeats too early."""
    rows = np.concatenate(batches(np.arange(30), generator=np.random.default_rng(1)))
    assert rows.shape == (6, 5)
    assert (np.diff(rows, axis=1) == 1).all()
    assert len(set(rows[:, 0].tolist())) == 6


def test_short_streams_repeat():
    """A client with one window still takes all its steps."""
    rows = np.concatenate(batches(np.arange(5), generator=np.random.default_rng(1)))
    assert rows.tolist() == [[0, 1, 2, 3, 4]] * 6


def test_rounds_and_clients_draw_apart_and_again_the_same():
    """(seed, round, client) decides the batches and nothing else does."""

    def draw(seed, client, round_number):
        generator = round_generator(seed, client=client, round_number=round_number)
        return np.concatenate(batches(np.arange(400), generator=generator)).tolist()

    assert draw(0, "a", 1) == draw(0, "a", 1)
    assert (
        len({str(draw(*key)) for key in [(0, "a", 1), (1, "a", 1), (0, "b", 1), (0, "a", 2)]}) == 4
    )


def test_held_out_windows_spread_over_the_text():
    """With a bound, windows come from all parts of the text, within the bound."""
    rows = held_out_windows(np.arange(1001), sequence_tokens=10, most_tokens=45)
    assert rows.shape == (4, 11)
    assert rows[:, 0].tolist() == [0, 250, 500, 750]


@pytest.mark.parametrize("length", [2, 5, 11])
def test_short_held_out_text_gives_one_row(length):
    """Text that fills no window is judged as it is."""
    rows = held_out_windows(np.arange(length), sequence_tokens=10, most_tokens=100)
    assert rows.tolist() == [list(range(length))]


def test_windows_need_a_next_token():
    """The last token of a window is only predicted."""
    assert [num_windows(np.arange(n), 4) for n in (0, 4, 5, 8, 9)] == [0, 0, 1, 1, 2]
