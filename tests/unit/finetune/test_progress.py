"""What a terminal and a log show of a running job, and the picture it leaves."""

import io
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from rich.progress import Progress

from finetune import run_plots
from finetune.adapters import ClientLosses, Manifest
from finetune.config import JobConfig
from finetune.history import RoundLine, ScheduleLine
from finetune.progress import JobProgress, round_text, size_text, time_text
from finetune.run_plots import MOST_DRAWING_FRACTION, RunPlots, draw_run
from planner.documents import read_document
from planner.errors import PlotError

JOB = Path(__file__).parents[3] / "configs" / "finetune" / "three-clients.yaml"


def lines(num_rounds, **changes):
    """Return the rounds of a job of two clients; round t takes t seconds."""
    return [
        RoundLine.model_validate(
            {
                "round": number,
                "loss": {"x": 3.0, "y": 2.0},
                "refused": {},
                "download_bytes": 2_000_000,
                "upload_bytes": 30_000,
                "seconds": float(number),
                "rank": 4,
                "aggregation_error": {"absolute": 1.0, "relative": 0.1},
                "held_out": {
                    "loss": {"x": 4.0, "y": 3.0},
                    "mean": 3.5,
                    "worst": "x",
                    "worst_change": -0.5,
                },
            }
            | changes
        )
        for number in range(1, num_rounds + 1)
    ]


def test_a_line_says_where_the_job_stands():
    """Round, losses, bytes both ways, clients, and the time left at the median of the rounds."""
    text = round_text(lines(3, refused={"z": "is not connected"}), num_rounds=40)
    assert text == (
        "round 3/40  loss 2.500  held out, as it began: 3.500  worst x -0.500  "
        "6 MB down, 90 kB up  2 clients  1 refused  1 min 14 s left"
    )


def test_what_is_not_known_is_left_out():
    """A round that nobody judged has no held-out loss, the last round no time left."""
    text = round_text(lines(2, held_out={}), num_rounds=2)
    assert text == "round 2/2  loss 2.500  4 MB down, 60 kB up  2 clients"


@pytest.mark.parametrize(
    ("said", "text"),
    [
        (size_text(999), "999 B"),
        (size_text(4_160_000), "4.16 MB"),
        (size_text(2e15), "2e+03 TB"),
        (time_text(0.4), "0 s"),
        (time_text(59.6), "1 min 0 s"),
        (time_text(7500), "2 h 5 min"),
    ],
)
def test_sizes_and_times_are_short(said, text):
    """Two units at most, three digits at most."""
    assert said == text


def shown(*, is_terminal, num_done):
    """Return what a console holds after a step of the round that follows `num_done`."""
    job = read_document(JOB, JobConfig)
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=is_terminal, width=200)
    with Progress(console=console) as progress:
        bar = JobProgress(progress, job)
        if num_done:
            bar.round_done(lines(num_done), num_rounds=job.rounds)
        bar.step(num_done + 1, 3.25)
        (task,) = [task for task in progress.tasks if task.total is not None]
        return stream.getvalue(), task


def test_a_resumed_bar_begins_where_the_run_stopped():
    """Steps of saved rounds count as done; the text is of the rounds so far."""
    _, task = shown(is_terminal=True, num_done=2)
    assert (task.completed, task.total) == (2 * 18 + 1, 5 * 18)
    assert task.description.startswith("round 2/5  loss 2.500")
    _, task = shown(is_terminal=True, num_done=0)
    assert task.description == "round 1/5  loss 3.250"


def test_without_a_terminal_there_are_lines():
    """One when the first round of this process begins, one for each that is done."""
    text, _ = shown(is_terminal=False, num_done=2)
    rows = [row for row in text.splitlines() if row.startswith("round")]
    assert rows[0].startswith("round 2/5  loss 2.500")
    assert rows[1] == "round 3/5 began, loss 3.250"


def manifest(rounds):
    """Return the result of a run of two clients."""
    return Manifest(
        base_model="b", base_weights_sha256="0" * 64, adapter_sha256="0" * 64, rank=4, alpha=4,
        target_modules=("q",), job="j", rounds=rounds, num_refused_updates=0,
        clients=(
            ClientLosses(name="x", held_out_tokens=5, base_loss=4.5, adapter_loss=3.5),
            ClientLosses(name="y", held_out_tokens=5, base_loss=4.5, adapter_loss=2.5),
        ),
    )  # fmt: skip


@pytest.mark.parametrize(
    "history",
    [lines(1), lines(3), lines(3, held_out={}, aggregation_error=None, rank=None)],
    ids=["one round", "three", "nothing but losses"],
)
@pytest.mark.parametrize("result", [None, manifest(3)], ids=["going on", "ended"])
def test_any_run_can_be_drawn(history, result):
    """The picture is a PNG file, whatever the rounds lack."""
    assert draw_run(history, result).startswith(b"\x89PNG")


def test_the_curves_are_at_what_was_sent_before(monkeypatch):
    """A judgement counts for the bytes before its round; the result's closes the series."""
    drawn = {}
    monkeypatch.setattr(run_plots, "png_of", lambda figure: drawn.setdefault("figure", figure))
    draw_run(lines(3), manifest(3))
    axes = drawn["figure"].axes[0]
    curves = {curve.get_label(): curve.get_xydata().tolist() for curve in axes.get_lines()}
    means = [[0.0, 3.5], [2.03, 3.5], [4.06, 3.5], [6.09, 3.0]]
    worst = [[0.0, 4.0], [2.03, 4.0], [4.06, 4.0], [6.09, 3.5]]
    np.testing.assert_allclose(curves["held out, mean"], means)
    np.testing.assert_allclose(curves["held out, worst: x"], worst)
    assert curves["training"] == [[2.03, 2.5], [4.06, 2.5], pytest.approx([6.09, 2.5])]


def test_several_adapters_have_curves_of_their_own_in_the_schedulers_time(monkeypatch):
    """Each adapter's losses are one line, and a panel that has nothing to show says so."""
    drawn = {}
    monkeypatch.setattr(run_plots, "png_of", lambda figure: drawn.setdefault("figure", figure))
    history = [
        line.model_copy(
            update={
                "aggregation_error": None,
                "schedule": ScheduleLine(adapter="ab"[place % 2], at_seconds=10.0 * place),
            }
        )
        for place, line in enumerate(lines(4), start=1)
    ]
    draw_run(history)
    _, by_time, by_error, _ = drawn["figure"].axes
    curves = {line.get_label(): line.get_xdata() for line in by_time.lines}
    assert list(curves["a: training"]) == [20.0, 40.0]
    assert list(curves["b: training"]) == [10.0, 30.0]
    assert "none" in by_error.texts[0].get_text()


@pytest.fixture
def folder(tmp_path):
    """A run folder of two rounds."""
    rows = [line.model_dump_json() for line in lines(2)]
    (tmp_path / "metrics.jsonl").write_text("".join(f"{row}\n" for row in rows))
    return tmp_path


def test_drawing_takes_a_small_share_of_the_time(folder, monkeypatch):
    """After a picture that took a second, the next one comes after fifty, or at the end."""
    now, drawn = [0.0], []

    def draw(history, result):
        drawn.append(now[0])
        now[0] += 1.0
        return b"picture"

    monkeypatch.setattr(run_plots, "draw_run", draw)
    plots = RunPlots(folder, clock=lambda: now[0])
    for _ in range(120):
        plots.after_round()
        now[0] += 1.0
    assert drawn == [
        0.0,
        1.0 + 1.0 / MOST_DRAWING_FRACTION,
        2 * (1.0 + 1.0 / MOST_DRAWING_FRACTION),
    ]
    plots.draw()
    assert len(drawn) == 4
    assert (folder / "plots.png").read_bytes() == b"picture"


def test_without_matplotlib_a_run_goes_on(folder, monkeypatch, caplog):
    """The log says once what to install; nothing is written."""

    def draw(history, result):
        raise PlotError("plots need the package 'matplotlib'")

    monkeypatch.setattr(run_plots, "draw_run", draw)
    plots = RunPlots(folder)
    with caplog.at_level("INFO"):
        plots.after_round()
        plots.after_round()
        plots.draw()
    assert [record.getMessage() for record in caplog.records] == [
        "no plots reason=\"plots need the package 'matplotlib'\""
    ]
    assert not (folder / "plots.png").exists()
