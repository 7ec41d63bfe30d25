"""What a terminal shows of a local run, and the picture it leaves."""

import io

import pytest
from rich.console import Console
from rich.progress import Progress

from finetune.local_runs import loss_plot
from finetune.local_runs.local_folder import LocalResult, StepLine
from finetune.local_runs.local_progress import LocalProgress
from finetune.local_runs.local_report import print_local_result
from finetune.local_runs.loss_plot import PLOTS_FILE, LossPlot, draw_steps
from planner.errors import PlotError

RESULT = LocalResult(
    result="adapter",
    steps=4,
    held_out_tokens=1234,
    base_loss=3.0,
    loss=2.5,
    num_dropped_empty=2,
    num_cut=1,
)


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


def steps(number):
    """Return the lines of some steps."""
    return [
        StepLine(
            step=step,
            loss=4.0 / step,
            tokens=100,
            learning_rate=0.1,
            gradient_norm=1.0,
            num_micro_batches=1,
            predicted_seconds=0.5,
            seconds=0.5,
            planning_seconds=0.01,
            waited_seconds=0.0,
        )
        for step in range(1, number + 1)
    ]


def test_a_log_has_a_line_now_and_then_and_one_at_the_end():
    """Where no bar is seen to move, steps of the same ten seconds share a line."""
    text, clock = io.StringIO(), Clock()
    with Progress(console=Console(file=text, width=100), disable=False) as progress:
        bar = LocalProgress(progress, clock=clock)
        bar.phase("training")
        for number in range(1, 9):
            clock.seconds += 4
            bar.steps_done(steps(number), num_steps=8)
        bar.finish()
    told = [line for line in text.getvalue().splitlines() if "tokens/s" in line]
    assert [line.split()[1] for line in told] == ["1/8", "4/8", "7/8", "8/8"]
    assert "loss 0.5000  200 tokens/s" in told[-1]


def test_the_report_says_what_changed_and_what_was_left_out(tmp_path):
    """Losses before and after, documents that did not count, and where the result is."""
    text = io.StringIO()
    print_local_result(RESULT, Console(file=text, width=100), folder=tmp_path / "adapter")
    told = text.getvalue()
    assert all(word in told for word in ("1,234", "3.0000", "2.5000", "-0.5000"))
    assert "documents left out: nothing to predict in them: 2" in told
    assert "documents cut behind max_tokens: 1" in told
    assert "longer than max_tokens" not in told
    assert f"adapter: {tmp_path / 'adapter'}" in told


def test_the_picture_is_a_png():
    """With and without a result."""
    for result in (None, RESULT):
        assert draw_steps(steps(4), result).startswith(b"\x89PNG")


def test_drawing_takes_a_small_share_of_the_time(tmp_path, monkeypatch):
    """A picture that takes a second is not drawn again within fifty."""
    clock, drawn = Clock(), []

    def draw(history, result=None):
        drawn.append(len(history))
        clock.seconds += 1
        return b"picture"

    monkeypatch.setattr(loss_plot, "draw_steps", draw)
    plot = LossPlot(tmp_path, clock)
    for number in range(1, 61):
        clock.seconds += 1
        plot.after_step(steps(number))
    assert drawn == [1, 51]
    assert (tmp_path / PLOTS_FILE).read_bytes() == b"picture"


def test_without_matplotlib_a_run_goes_on(tmp_path, monkeypatch, caplog):
    """It is said once that there are no plots."""

    def refuse(history, result=None):
        raise PlotError("plots need the package 'matplotlib'")

    monkeypatch.setattr(loss_plot, "draw_steps", refuse)
    caplog.set_level("INFO")
    plot = LossPlot(tmp_path)
    for _ in range(3):
        plot.draw(steps(2))
    assert caplog.text.count("no plots") == 1
    assert not (tmp_path / PLOTS_FILE).exists()


def test_a_picture_that_cannot_be_written_ends_nothing(tmp_path, caplog):
    """Training is worth more than its plot; the reason is logged."""
    LossPlot(tmp_path / "gone").draw(steps(2))
    assert "plots not written" in caplog.text


@pytest.mark.parametrize("result", [None, RESULT])
def test_no_step_gives_no_picture(tmp_path, result):
    """A run that was killed before its first step leaves none."""
    LossPlot(tmp_path).draw([], result)
    assert not (tmp_path / PLOTS_FILE).exists()
