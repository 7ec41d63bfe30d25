"""Result files of other load generators, as profiles: which format a file has, and all files as one.

| format | told by | field names from |
|---|---|---|
| `vllm bench serve --save-result`, `--append-result` | `request_throughput`, a number | vllm-project/vllm, `vllm/benchmarks/serve.py` |
| AIPerf `profile_export_aiperf.json` | `request_throughput`, an object with a unit | AIPerf's JSON export schema, 1.0 to 1.5 |
| AIBrix benchmark, JSON lines | `metric` beside `request_rate` | vllm-project/aibrix, `gpu_benchmark.py` |
| AIBrix profile | `tputs` beside `indexes` | vllm-project/aibrix, `gen_profile.py` |
| Motley's own `profile.json` | `kind` | `profile.py` |
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from planner.documents import describe, read_text
from planner.errors import DocumentError, ProfileError
from planner.profiling.profile import Cell, Profile
from planner.profiling.profile_aibrix import read_aibrix_profile, read_aibrix_rows
from planner.profiling.profile_aiperf import read_aiperf
from planner.profiling.profile_assembly import ReplicaFacts, assembled, joined, merged, same_target
from planner.profiling.profile_fields import Fields, Imported
from planner.profiling.profile_vllm import read_vllm

FORMATS: Mapping[str, tuple[Callable[[Mapping[str, Any]], bool], Callable[[Fields], Imported]]] = {
    "vllm": (lambda row: isinstance(row.get("request_throughput"), int | float), read_vllm),
    "aiperf": (lambda row: isinstance(row.get("request_throughput"), dict), read_aiperf),
    "aibrix-profile": (lambda row: "tputs" in row and "indexes" in row, read_aibrix_profile),
}
"""How an object is recognised, and read, by format; AIBrix's lines are read together."""


def profile_from_files(
    paths: Sequence[Path],
    *,
    gpu: str | None,
    model: str | None,
    date: str,
    **facts: Any,
) -> Profile:
    """Return the profile that several result files of one kind of replica make together.

    Args:
        paths: At least one; either all Motley's own profiles or none.
        gpu: Device; other tools' files do not tell.
        model: Name of the model; nothing: as the files say.
        date: Day of the measurement.
        facts: Further fields of `ReplicaFacts`.

    Raises:
        DocumentError: If a file is no known format, or holds a number that cannot be.
        ProfileError: If the files do not belong together, or nobody says what was measured.
    """
    rows = {path: read_objects(path) for path in paths}
    own = [path for path, objects in rows.items() if objects[0].get("kind") == "profile"]
    if own:
        if len(own) < len(rows):
            other = next(path for path in rows if path not in own)
            raise ProfileError(
                f"{own[0]} is a profile and {other} another tool's file; make a profile of the "
                "latter, then give both"
            )
        return merged(_own_profile(path, rows[path]) for path in own)
    if gpu is None:
        raise ProfileError("the files do not say which device was measured; name it with --gpu")
    imported = [part for path, objects in rows.items() for part in _imported(path, objects)]
    named = ReplicaFacts(gpu=gpu, model=model or _one_model(imported), date=date, **facts)
    return _profile(named, imported)


def read_objects(path: Path) -> list[dict[str, Any]]:
    """Return the JSON objects of a file, one alone or one a line.

    Raises:
        DocumentError: If it cannot be read, or holds anything else.
    """
    text = read_text(path)
    try:
        objects = [json.loads(text)]
    except (ValueError, RecursionError):
        objects = [_line(path, number, line) for number, line in _lines(text)]
    if not objects:
        raise DocumentError(path, "is empty; it should hold a benchmark's results")
    if not all(isinstance(each, dict) for each in objects):
        raise DocumentError(path, "holds something else than JSON objects; give a result file")
    return objects


def _lines(text: str) -> list[tuple[int, str]]:
    lines = enumerate(text.splitlines(), start=1)
    return [(number, line) for number, line in lines if line.strip()]


def _line(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DocumentError(path, f"line {number} is no JSON ({error}); correct it") from None


def _own_profile(path: Path, objects: list[dict[str, Any]]) -> Profile:
    try:
        return Profile.model_validate_json(json.dumps(objects[0]))
    except (ValidationError, ValueError) as error:
        problem = describe(error) if isinstance(error, ValidationError) else str(error)
        raise DocumentError(path, problem) from None


def _imported(path: Path, objects: list[dict[str, Any]]) -> Iterable[Imported]:
    if all("metric" in each and "request_rate" in each for each in objects):
        yield from read_aibrix_rows(path, objects)
        return
    for number, each in enumerate(objects, start=1):
        where = f"object {number}" if len(objects) > 1 else ""
        readers = [read for is_format, read in FORMATS.values() if is_format(each)]
        if not readers:
            raise DocumentError(
                path,
                f"{where} has the fields of no known result format; "
                f"known: {', '.join(FORMATS)}, aibrix lines, Motley's profile".lstrip(),
            )
        yield readers[0](Fields(path, each, where))


def _one_model(imported: Sequence[Imported]) -> str:
    names = sorted({each.model for each in imported if each.model})
    if len(names) != 1:
        found = f"are of several models ({', '.join(names)})" if names else "name no model"
        raise ProfileError(f"the files {found}; name it with --model, or import fewer files")
    return names[0]


def _profile(facts: ReplicaFacts, imported: Sequence[Imported]) -> Profile:
    cells: dict[tuple[int, int], Cell] = {}
    target = None
    for part in imported:
        target = same_target(target, part.taken_under)
        for size, cell in part.cells.items():
            cells[size] = joined(size, cells.get(size, Cell()), cell)
    try:
        return assembled(facts, cells, taken_under=target)
    except ValidationError as error:
        raise ProfileError(describe(error)) from None
