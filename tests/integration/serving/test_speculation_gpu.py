"""The benchmark of a draft on a GPU runs its whole logic on the processor."""

import importlib

import pytest
import torch


@pytest.fixture
def benchmark_module(monkeypatch):
    def load(device: str):
        monkeypatch.setenv("MOTLEY_BENCH_DRAFT_DEVICE", device)
        monkeypatch.setenv("MOTLEY_BENCH_LAYERS", "1")
        monkeypatch.setenv("MOTLEY_BENCH_NEW_TOKENS", "24")
        return importlib.reload(importlib.import_module("benchmarks.speculation_gpu"))

    return load


def test_every_row_runs_and_is_judged_by_its_own_bar(benchmark_module, capsys, monkeypatch):
    """On the processor: five acceptances, the same text in each, rates against their bars."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    figures = benchmark_module("cpu").run()
    names = [row["acceptance"] for row in figures["rows"]]
    assert names == ["tiny head", "tau 2", "tau 3", "tau 4", "tau 5"]
    ratio = figures["curve"]["seconds_by_rows"]["16"] / figures["curve"]["seconds_by_rows"]["1"]
    for row in figures["rows"]:
        assert row["bar"] == pytest.approx(0.85 * row["tau"] / ratio)
        assert row["is_met"] == (row["speed_up"] >= row["bar"])
        assert row["bus_bytes_per_round"] == 0
        assert row["tokens_per_round"] == pytest.approx(row["tau"], rel=0.25)
    assert [row["tau"] for row in figures["pre_drafting"]] == [2, 3, 4, 5]
    for row in figures["pre_drafting"]:
        assert row["gain"] * row["off_tokens_per_second"] == pytest.approx(
            row["on_tokens_per_second"]
        )
        assert 0 <= row["ready"] <= 1
    assert "2.77x" in capsys.readouterr().out


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_without_a_gpu_it_says_that_it_needs_one(benchmark_module, capsys):
    """One line, and no figures."""
    assert benchmark_module("cuda:0").run() == {"ran": False}
    assert capsys.readouterr().out.startswith("speculation-gpu needs a CUDA device; ")


@pytest.mark.parametrize(
    ("allowed", "speed_ups", "expected"),
    [
        ([2.0, 2.5], [1.9, 2.4], None),
        ([2.0, 2.8, 4.0], [1.9, 2.7, 3.9], ("1", False)),
        ([3.0, 2.8], [2.9, 1.0], ("0", True)),
    ],
)
def test_the_published_speed_up_binds_the_first_row_that_allows_it(
    benchmark_module, allowed, speed_ups, expected
):
    """Rows whose acceptance cannot give it are passed over; later ones do not count."""
    module = benchmark_module("cpu")
    rows = [
        module.Row(str(index), 3, 3, 1, speed_up, 1, most, 0, 0)
        for index, (most, speed_up) in enumerate(zip(allowed, speed_ups, strict=True))
    ]
    found = module.published_bar(rows)
    assert (found and (found["row"], found["is_met"])) == expected
