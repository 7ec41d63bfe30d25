"""The calibration's parts on made-up measurements: medians, the plausibility rule, the fit."""

import numpy as np
import pytest
from benchmarks.calibration import coefficients_of, peak_coefficients
from benchmarks.calibration_cells import Cell, plausible, predict, read_cells
from benchmarks.calibration_fit import Form, fit, rows_of

HEADER = "model,prompt_size,batch_size,token_size,prompt_time,token_time,tensor_parallel\n"
EXTRAS = np.array([0.3, 0.6, 0.4, 1.0, 5e-5, 4e-5])
PEAKS = peak_coefficients()


def _cell(degree, prompt, batch, prompt_seconds=1.0, token_seconds=1.0):
    return Cell("llama2-70b", degree, prompt, batch, 1, prompt_seconds, token_seconds, prompt + 64)


def _as_predicted(degree, prompt, batch, coefficients):
    times = predict(_cell(degree, prompt, batch), coefficients)
    return _cell(degree, prompt, batch, *times)


def test_repeats_collapse_to_their_median(tmp_path):
    """Rows of one prompt, batch and degree are one cell, whatever their answers' length."""
    path = tmp_path / "times.csv"
    rows = [
        "llama2-70b,512,1,128,100,50,2",
        "llama2-70b,512,1,128,300,51,2",
        "llama2-70b,512,1,1024,200,90,2",
        "llama2-70b,512,1,128,9,9,8",
        "bloom-176b,512,1,128,9,9,2",
    ]
    path.write_text(HEADER + "\n".join(rows) + "\n")
    (cell,) = read_cells(path, model="llama2-70b", tensor_parallel={2, 4})
    assert (cell.num_rows, cell.prompt_seconds, cell.token_seconds) == (3, 0.2, 0.051)
    assert cell.context_tokens == 576


def test_cells_faster_than_peaks_are_dropped_by_name():
    """64 prompts of 512 cannot take 0.79 s on two A100: their peaks allow 7.5 s."""
    kept, dropped = plausible([_cell(2, 512, 64, 0.794, 0.067), _cell(2, 512, 1)], PEAKS)
    assert [cell.batch for cell in kept] == [1]
    (line,) = dropped
    assert line.startswith("TP 2, prompt 512, batch 64: prompts 0.794 s where peaks allow 7.5")


def test_the_fit_finds_what_made_the_times():
    """Times made by the planner's own step model give back its coefficients."""
    made_by = coefficients_of(EXTRAS)
    shapes = [(128, 1), (512, 1), (2048, 1), (8192, 1), (512, 8), (512, 64)]
    cells = [_as_predicted(tp, *shape, made_by) for tp in (1, 2, 4, 8) for shape in shapes]
    rows = [row for cell in cells for row in rows_of(cell, PEAKS)]
    found = coefficients_of(fit(rows, Form("max", "tree", "published", 1e-9, True)))
    for name in ("weight_bandwidth", "compute", "kv_bandwidth", "link"):
        name = f"{name}_fraction"
        assert getattr(found, name).value == pytest.approx(getattr(made_by, name).value, rel=0.02)
    assert found.layer_seconds.value == pytest.approx(5e-5, rel=0.02)
    assert found.collective_seconds.value == pytest.approx(4e-5, rel=0.02)
