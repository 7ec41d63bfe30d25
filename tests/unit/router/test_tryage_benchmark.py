"""The pure parts of `make bench NAME=tryage`."""

import numpy as np
import pytest
from benchmarks.tryage_report import WEIGHTS, accuracy_rows, pick_row, sweep
from benchmarks.tryage_texts import (
    FITTING,
    JUDGED,
    PROMPT_CHARACTERS,
    TRAINING,
    Prompt,
    cut,
    distinct,
    part_of,
    shared_fraction,
    shingles,
)

LINE = "def method_{0}(self, first_{0}, second_{0}): return first_{0} + second_{0}\n"


def test_every_file_is_in_one_part_and_each_part_gets_its_share():
    """Half of the files train adapters; a quarter each fits the predictor and is reported."""
    parts = [part_of(f"package/module_{number}.py") for number in range(4_000)]
    shares = {part: parts.count(part) / len(parts) for part in (TRAINING, FITTING, JUDGED)}
    assert shares == pytest.approx({TRAINING: 0.5, FITTING: 0.25, JUDGED: 0.25}, abs=0.03)


def test_a_cut_file_is_whole_lines_and_nothing_else():
    """The pieces joined are the file's beginning."""
    text = "".join(LINE.format(number) for number in range(40))
    pieces = cut(text)
    assert text.startswith("".join(pieces))
    assert all(len(piece) >= PROMPT_CHARACTERS and piece.endswith("\n") for piece in pieces)
    assert len(text) - len("".join(pieces)) < PROMPT_CHARACTERS


def test_a_line_without_end_is_no_prompt_without_end():
    """What is longer than a prompt is cut to one."""
    assert cut("x" * 10 * PROMPT_CHARACTERS) == ["x" * PROMPT_CHARACTERS]


def test_a_prompt_that_repeats_another_is_left_out():
    """A copy with a few other words is a copy; new wording is none."""
    first = " ".join(f"word{number}" for number in range(60))
    copy = first.replace("word30", "another")
    new = " ".join(f"term{number}" for number in range(60))
    prompts = [Prompt("any", text) for text in (first, copy, new)]
    kept, num_near_duplicates = distinct(prompts, set(), most=10)
    assert [prompt.text for prompt in kept] == [first, new]
    assert num_near_duplicates == 1


def test_wording_of_the_training_texts_is_left_out_too():
    """What the adapters were trained on is no prompt."""
    text = " ".join(f"word{number}" for number in range(60))
    assert distinct([Prompt("any", text)], shingles(text), most=10) == ([], 1)
    assert shared_fraction(shingles(text), shingles(text)) == 1
    assert shared_fraction(shingles("too short"), set()) == 1


def test_rows_of_three_prompts_by_hand():
    """Optimal picks, picks within the tie, mean loss; random is the mean of the models alone."""
    judged = np.array([[1.0, 2.0], [3.0, 1.0], [2.0, 2.01]], dtype=np.float32)
    predicted = np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]], dtype=np.float32)
    fitting = np.array([[5.0, 1.0]], dtype=np.float32)
    rows = {
        row["way"]: row
        for row in accuracy_rows(["a", "b"], fitting=fitting, judged=judged, predicted=predicted)
    }
    assert rows["router"] == pytest.approx(
        {
            "way": "router",
            "optimal_fraction": 1 / 3,
            "tied_fraction": 2 / 3,
            "mean_loss": (1 + 3 + 2.01) / 3,
        }
    )
    assert rows["random"]["optimal_fraction"] == pytest.approx(0.5)
    assert rows["random"]["mean_loss"] == pytest.approx(judged.mean())
    assert rows["best single on other prompts (b)"]["optimal_fraction"] == pytest.approx(1 / 3)
    assert rows["oracle"]["mean_loss"] == pytest.approx((1 + 1 + 2) / 3)


def test_equal_losses_are_both_optimal():
    """A tie counts for either model."""
    judged = np.ones((4, 3), dtype=np.float32)
    assert pick_row("any", judged[:, 2], judged)["optimal_fraction"] == 1


def test_a_weight_of_zero_picks_the_least_predicted_loss_and_a_rising_one_never_costs_more():
    """The front begins at the predictor's own picks and goes down in cost."""
    generator = np.random.default_rng(3)
    predicted = generator.random((50, 4), dtype=np.float32)
    front = sweep("smallest", "size", (1.0, 2.0, 3.0, 4.0), predicted, predicted)
    assert front.weights == WEIGHTS
    assert front.losses[0] == pytest.approx(predicted.min(axis=1).mean())
    assert list(front.costs) == sorted(front.costs, reverse=True)
    assert front.costs[-1] == 1.0
