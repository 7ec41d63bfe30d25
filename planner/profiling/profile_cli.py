"""`motley plan profile`: measures a live endpoint, or takes in benchmark files, as `profile.json`."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.console import configure_logging, output, progress_bar

if TYPE_CHECKING:
    from planner.profiling.measure import Settings
    from planner.profiling.profile import Profile
    from planner.profiling.profile_assembly import ReplicaFacts

KEY_VARIABLE = "OPENAI_API_KEY"
"""Environment variable that holds the endpoint's key."""

Sources = Annotated[list[str], typer.Argument(metavar="URL|FILE...", show_default=False)]
FromFiles = Annotated[
    bool,
    typer.Option("--from", help="Read result files: vllm bench serve, AIPerf, AIBrix, profiles."),
]
Model = Annotated[
    str | None, typer.Option(help="Model to ask for; of files, by default as they say.")
]
Gpu = Annotated[
    str | None,
    typer.Option(
        help="Device it runs on, as planner/catalogues/gpus.yaml or a --catalogue has it."
    ),
]
Catalogues = Annotated[
    list[Path] | None,
    typer.Option("--catalogue", metavar="FILE", help="Lists devices of your own; repeatable."),
]
GpusPerReplica = Annotated[int, typer.Option(min=1, help="Devices of the replica.")]
Engine = Annotated[str | None, typer.Option(help="Serving engine; by default as /version says.")]
EngineVersion = Annotated[str | None, typer.Option(help="Its version; likewise.")]
DType = Annotated[str | None, typer.Option("--dtype", help="Number format of the weights.")]
Simulated = Annotated[
    bool, typer.Option("--simulated", help="A simulator answers in place of devices.")
]
Inputs = Annotated[
    str, typer.Option("--input-tokens", metavar="N,N,...", help="Prompt lengths, rising.")
]
Outputs = Annotated[
    str, typer.Option("--output-tokens", metavar="N,N,...", help="Answer lengths, rising.")
]
Rates = Annotated[
    str | None,
    typer.Option(
        metavar="R,R,...",
        help="Requests a second to offer, rising, until saturated; by default searched.",
    ),
]
RunSeconds = Annotated[float, typer.Option(help="Length of one run.")]
MostInFlight = Annotated[
    int, typer.Option("--max-in-flight", min=1, help="Most requests open at once.")
]
MostSequences = Annotated[
    int, typer.Option("--max-sequences", min=2, help="Largest batch tried for step times.")
]
Seed = Annotated[int, typer.Option(min=0, help="Of arrivals; prompts are new every time.")]
OutputFile = Annotated[Path, typer.Option("--output", help="Write the profile to this file.")]


def profile(
    sources: Sources,
    from_files: FromFiles = False,
    model: Model = None,
    gpu: Gpu = None,
    catalogues: Catalogues = None,
    gpus_per_replica: GpusPerReplica = 1,
    engine: Engine = None,
    engine_version: EngineVersion = None,
    dtype: DType = None,
    simulated: Simulated = False,
    input_tokens: Inputs = "128,512,2048",
    output_tokens: Outputs = "32,128,512",
    rates: Rates = None,
    run_seconds: RunSeconds = 30.0,
    max_in_flight: MostInFlight = 256,
    max_sequences: MostSequences = 64,
    seed: Seed = 0,
    output_file: OutputFile = Path("profile.json"),
) -> None:
    """Measure what a live OpenAI endpoint sustains, or take in others' measurements.

    `motley plan profile URL --model NAME --gpu NAME` drives the endpoint at URL; its key is read
    from OPENAI_API_KEY. What is measured stands in the file after every run, also when interrupted.
    `motley plan profile --from FILE... --gpu NAME` reads result files.

    Exit codes: 0 done, 2 bad input or an endpoint that cannot be measured, 130 interrupted.
    """
    configure_logging()
    _check_output(output_file, sources if from_files else ())
    gpu = None if gpu is None else _device(gpu, catalogues or ())
    facts = {
        "gpus_per_replica": gpus_per_replica,
        "engine": engine,
        "engine_version": engine_version,
        "dtype": dtype,
        "is_simulated": simulated,
    }
    if from_files:
        found = _imported(sources, output_file, gpu=gpu, model=model, **facts)
    else:
        if len(sources) != 1 or model is None or gpu is None:
            given = {"--model": model, "--gpu": gpu}
            missing = [name for name, value in given.items() if value is None]
            wrong = f"{' and '.join(missing)} missing" if missing else f"got {len(sources)} words"
            raise typer.BadParameter(
                f"an endpoint takes one URL, --model and --gpu ({wrong}); result files take --from"
            )
        settings = _settings(
            _lengths("--input-tokens", input_tokens),
            _lengths("--output-tokens", output_tokens),
            _rates(rates),
            run_seconds=run_seconds,
            max_in_flight=max_in_flight,
            most_sequences=max_sequences,
            seed=seed,
        )
        found = _measured(sources[0], _facts(gpu=gpu, model=model, **facts), settings, output_file)
    _report(found, output_file)


def _check_output(output_file: Path, inputs: Sequence[str]) -> None:
    from planner.documents import check_apart, check_writable

    check_apart(output_file, map(Path, inputs))
    check_writable(output_file)


def _device(name: str, catalogues: Sequence[Path]) -> str:
    """Return the catalogues' own spelling of a device, which plans will look up."""
    from planner.hardware.catalogue import load_catalogue

    return load_catalogue(catalogues).gpu(name).name


def _report(found: Profile, output_file: Path) -> None:
    from planner.profiling.profile_report import print_profile

    console = output()
    print_profile(found, console)
    console.print(f"{output_file} written", markup=False, soft_wrap=True)


def _imported(
    sources: list[str], output_file: Path, *, gpu: str | None, model: str | None, **facts: object
) -> Profile:
    from planner.profiling.profile import write_profile
    from planner.profiling.profile_files import profile_from_files

    paths = [Path(source) for source in sources]
    found = profile_from_files(paths, gpu=gpu, model=model, date=_today(), **facts)
    write_profile(found, output_file)
    return found


def _measured(url: str, facts: ReplicaFacts, settings: Settings, output_file: Path) -> Profile:
    """Measure an endpoint; the file is written after every stage."""
    import asyncio

    from planner.profiling.clock import Clock
    from planner.profiling.endpoint import connected
    from planner.profiling.measure import Measurement
    from planner.profiling.profile import write_profile

    has_kept = False

    def keep(found: Profile) -> None:
        nonlocal has_kept
        write_profile(found, output_file)
        has_kept = True

    async def measure() -> Profile:
        clock, key = Clock(), os.environ.get(KEY_VARIABLE)
        async with connected(url, facts.model, api_key=key, clock=clock) as endpoint:
            with progress_bar() as progress:
                task = progress.add_task("greeting", total=None)

                def show(stage: str, done: int, total: int) -> None:
                    progress.update(task, description=stage, completed=done, total=total)

                work = Measurement(
                    endpoint, facts, settings, clock=clock, keep=keep, on_progress=show
                )
                return await work.run()

    try:
        return asyncio.run(measure())
    finally:
        if has_kept:
            typer.echo(f"what was measured is kept in {output_file}", err=True)


def _facts(*, gpu: str, model: str, **facts: object) -> ReplicaFacts:
    """Return the facts, checked as the profile will check them, before the work."""
    from pydantic import ValidationError

    from planner.documents import describe
    from planner.profiling.profile import Cell
    from planner.profiling.profile_assembly import ReplicaFacts, assembled

    named = ReplicaFacts(gpu=gpu, model=model, date=_today(), **facts)  # type: ignore[arg-type]
    try:
        assembled(named, {(1, 1): Cell()})
    except ValidationError as error:
        raise typer.BadParameter(describe(error)) from None
    return named


def _settings(
    inputs: tuple[int, ...],
    outputs: tuple[int, ...],
    rates: tuple[float, ...],
    *,
    run_seconds: float,
    max_in_flight: int,
    most_sequences: int,
    seed: int,
) -> Settings:
    from planner.profiling.measure import Settings

    if not 0 < run_seconds < math.inf:
        raise typer.BadParameter(f"--run-seconds is {run_seconds}; give a finite time above 0")
    return Settings(
        inputs,
        outputs,
        rates,
        run_seconds=run_seconds,
        max_in_flight=max_in_flight,
        most_sequences=most_sequences,
        seed=seed,
    )


def _today() -> str:
    from datetime import UTC, datetime

    return datetime.now(UTC).date().isoformat()


def _lengths(option: str, text: str) -> tuple[int, ...]:
    return tuple(map(int, _numbers(option, text, are_whole=True)))


def _rates(text: str | None) -> tuple[float, ...]:
    return () if text is None else _numbers("--rates", text, are_whole=False)


def _numbers(option: str, text: str, *, are_whole: bool) -> tuple[float, ...]:
    """Return the numbers of a list such as `1,2,4`: finite, above 0, rising."""
    try:
        numbers = tuple(int(word) if are_whole else float(word) for word in text.split(","))
    except ValueError:
        numbers = ()
    is_rising = list(numbers) == sorted(set(numbers))
    if not numbers or not is_rising or not all(0 < number < math.inf for number in numbers):
        kind = "whole numbers" if are_whole else "numbers"
        raise typer.BadParameter(
            f"{option} is {text!r}; give rising {kind} above 0 with commas between, such as 1,2,4"
        )
    return numbers
