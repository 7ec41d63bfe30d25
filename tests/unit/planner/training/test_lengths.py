"""Reading, filtering and padding lengths."""

import pytest

from planner.errors import DocumentError
from planner.training.lengths import admit, read_lengths


def test_a_list_keeps_its_order(tmp_path):
    """One whole number a line, blank lines aside."""
    file = tmp_path / "lengths.txt"
    file.write_text("30\n\n10\n20\n")
    assert read_lengths(file) == [30, 10, 20]


def test_a_histogram_is_drawn_in_an_order_that_the_seed_decides(tmp_path):
    """Every length comes as often as counted."""
    file = tmp_path / "lengths.yaml"
    file.write_text("100: 40\n200: 20\n")
    first = read_lengths(file, seed=1)
    assert sorted(first) == [100] * 40 + [200] * 20
    assert first == read_lengths(file, seed=1) != read_lengths(file, seed=2)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.txt", "12\n1.5\n", "line 2 is '1.5'"),
        ("a.txt", "-3\n", "line 1 is '-3'"),
        ("a.txt", "\n", "holds no length"),
        ("a.txt", "9" * 13, "give a whole number"),
        ("a.yaml", "100: true\n", "the count of length 100"),
        ("a.json", '{"x": 3}', "a length is 'x'"),
        ("a.yaml", "100: 99999999\n", "give at most"),
    ],
)
def test_what_is_no_length_is_told(tmp_path, name, text, words):
    """One line with the place and the value."""
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(DocumentError, match=words):
        read_lengths(file)


def test_empty_and_long_sequences_are_dropped_and_counted():
    """Padding comes before the comparison."""
    found = admit([0, 1, 128, 129, 300], most_tokens=256, pad_to=128)
    assert found.lengths == (128, 128, 256)
    assert (found.num_dropped_empty, found.num_dropped_long) == (1, 1)
    assert [len(batch) for batch in found.batches(2)] == [2, 1]


@pytest.mark.parametrize("lengths", [[], [0, 0], [500]])
def test_nothing_left_is_an_error(lengths):
    """A plan of no sequence is none."""
    with pytest.raises(ValueError, match="none of"):
        admit(lengths, most_tokens=100)
