"""`motley route train`, `evaluate` and `explain`: the predictor behind `model: "auto"`."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from planner.console import configure_logging, progress_bar, run_app

if TYPE_CHECKING:
    from router.prediction.embedding_fetch import EmbeddingSource
    from router.prediction.labelled import Float32, LabelledPrompts, Progress
    from router.prediction.metrics import Array
    from router.prediction.predictor import Predictor

COMMANDS = ("train", "evaluate", "explain")
"""First words of `motley route` that stand for these; `./train` names a file."""

app = typer.Typer(add_completion=False)

_PREDICTOR = Path("predictor.npz")
"""In the working directory."""

_DataOption = Annotated[
    Path,
    typer.Option(
        help="JSON list of {question, scores: {model: 0 to 1}}; with --grades, a features log of "
        "the router."
    ),
]
_GradesOption = Annotated[
    Path | None,
    typer.Option(help="Lines of {request_id, model, score} for the requests of a features log."),
]
_PricesOption = Annotated[
    Path | None,
    typer.Option(
        help="JSON of {model: {input_price, output_price}} in dollars a million tokens; without it "
        "all models cost alike."
    ),
]
_EmbeddingsUrlOption = Annotated[
    str | None,
    typer.Option(
        help="A server with POST /v1/embeddings, such as http://127.0.0.1:8001; every prompt is "
        "sent to it."
    ),
]
_EmbeddingsModelOption = Annotated[
    str | None, typer.Option(help="The model there that embeds the prompts.")
]
_KeyFileOption = Annotated[
    Path | None, typer.Option(help="File of the key that the server of embeddings asks for.")
]


def run(arguments: list[str]) -> None:
    """Run `motley route` with the words after it, the first of which is one of `COMMANDS`."""
    run_app(app, arguments, name="motley route")


@app.command()
def train(
    data: _DataOption,
    output: Annotated[Path, typer.Option(help="File to write.")] = _PREDICTOR,
    grades: _GradesOption = None,
    embeddings_url: _EmbeddingsUrlOption = None,
    embeddings_model: _EmbeddingsModelOption = None,
    api_key_file: _KeyFileOption = None,
    seed: Annotated[int, typer.Option(min=0, help="Of folds and draws.")] = 0,
) -> None:
    """Fit a predictor of each model's quality; every setting is chosen on held-out folds."""
    configure_logging()
    from router.prediction.predictor_file import write_predictor
    from router.prediction.training import fit

    source = _source(embeddings_url, embeddings_model, api_key_file, grades)
    prompts = _read(data, grades, source)
    with _progress("choosing settings") as progress:
        predictor = fit(prompts, seed=seed, progress=progress)
    write_predictor(predictor, output)
    print(f"fitted to {len(prompts):,} prompts and {len(prompts.models)} models")
    print("settings: " + ", ".join(f"{k} {v}" for k, v in predictor.settings.model_dump().items()))
    if source is not None and predictor.embedding is None:
        print("embeddings do not help on held-out prompts: none will be asked for")
    print("best single model: " + predictor.models[predictor.best_single])
    more = "" if grades is None else f" --grades {grades}"
    print(f"written to {output}; its quality: `motley route evaluate --data {data}{more}`")


@app.command()
def evaluate(
    data: _DataOption,
    grades: _GradesOption = None,
    prices: _PricesOption = None,
    embeddings_url: _EmbeddingsUrlOption = None,
    embeddings_model: _EmbeddingsModelOption = None,
    api_key_file: _KeyFileOption = None,
    folds: Annotated[int, typer.Option(min=2, max=50, help="Of the cross-validation.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Of the folds.")] = 0,
    plot: Annotated[
        Path | None, typer.Option(help="PNG of quality against cost; needs matplotlib.")
    ] = None,
) -> None:
    """Cross-validate: fit on some folds, judge on the others; nothing is tuned on the latter."""
    configure_logging()
    import time

    from planner.plots import check_plots
    from router.prediction import evaluation, report
    from router.prediction.graded_files import read_graded_prompts
    from router.prediction.latency import time_decisions
    from router.prediction.training import fit

    if plot is not None:
        check_plots()
    source = _source(embeddings_url, embeddings_model, api_key_file, grades)
    prompts = evaluation.complete(_read(data, grades, source))
    costs = _costs(prompts, prices)
    with _progress("folds") as progress:
        outcome = evaluation.cross_validate(
            prompts,
            costs,
            fitter=evaluation.fit_ours,
            num_folds=folds,
            seed=seed,
            progress=progress,
        )
    quality = evaluation.quality_of(outcome)
    print(report.quality_table({"predictor": (outcome, quality)}))
    for line in report.notes(outcome, quality):
        print(line)
    if grades is None:  # a features log holds no text to time decisions about
        texts = [one.question for one in read_graded_prompts(data)]
        times = time_decisions(fit(prompts), texts, clock=time.process_time)
        print("\n".join(report.latency_lines(times)))
    if plot is not None:
        plot.write_bytes(report.front_png(outcome, prompts.models))
        print(f"front drawn in {plot}")


@app.command()
def explain(
    prompt: Annotated[str, typer.Argument(help="The prompt's text.")],
    predictor: Annotated[
        Path | None,
        typer.Option(help="File of `motley route train`; without it --config's, or predictor.npz."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="The router's file: its models with their facts, and its goals."),
    ] = None,
    goals: Annotated[
        str | None,
        typer.Option(
            help="As in the header x-motley-goals, such as 'newest=0.2, quality=0.8'; in place of "
            "the file's."
        ),
    ] = None,
    prices: _PricesOption = None,
    cheapest: Annotated[
        float, typer.Option(min=0, help="Weight of the price, as in [Flag: cheapest=0.3].")
    ] = 0.0,
    embeddings_url: _EmbeddingsUrlOption = None,
    embeddings_model: _EmbeddingsModelOption = None,
    api_key_file: _KeyFileOption = None,
) -> None:
    """Show what decides about one prompt: words, predictions, terms, the pick and its reason.

    With --config every goal that the file states facts for; speeds are known to a running router only.
    """
    from router.config_file import ConfigFile
    from router.goals import Goal, GoalRules, Goals, read_header
    from router.prediction.compared import by_prices, by_router_file
    from router.prediction.explanation import explain as taken_apart
    from router.prediction.explanation_text import explanation_text
    from router.prediction.predictor import Predictor

    if config is not None and (prices is not None or cheapest):
        raise typer.BadParameter("--config has the prices; use --goals cheapest=0.3")
    if config is None and goals is not None:
        raise typer.BadParameter("--goals needs --config; name the router's file")
    if prices is None and cheapest:
        raise typer.BadParameter("--cheapest needs --prices; name the file")
    content = None if config is None else ConfigFile(config).read()
    choice = None if content is None else content.model_choice
    configured = None if choice is None else choice.predictor
    fitted = Predictor.load(predictor or configured or _PREDICTOR)
    if content is None:
        expectations = by_prices(prompt, fitted.models, prices)
        asked = Goals({Goal.CHEAPEST: cheapest} if prices is not None else {})
    else:
        expectations = by_router_file(prompt, fitted.models, content)
        asked = Goals() if choice is None else choice.default_goals
        if goals is not None:
            rules = GoalRules() if choice is None else choice.flags.rules
            asked = read_header(goals, rules, carrier="--goals")
    embedding = _embedding_of(prompt, fitted, embeddings_url, embeddings_model, api_key_file)
    explanation = taken_apart(
        fitted, prompt, expectations=expectations, goals=asked, embedding=embedding
    )
    print(explanation_text(fitted, explanation))


def _source(
    url: str | None, model: str | None, key_file: Path | None, grades: Path | None
) -> "EmbeddingSource | None":
    """Return who embeds; None: nobody was named."""
    from pydantic import TypeAdapter, ValidationError

    from planner.key_file import read_key
    from router.prediction.embedding_fetch import EmbeddingSource
    from router.replica_url import ReplicaUrl

    if url is None:
        if model is not None or key_file is not None:
            raise typer.BadParameter("--embeddings-url is missing; name the server")
        return None
    if model is None:
        raise typer.BadParameter("--embeddings-url needs --embeddings-model; name the model there")
    if grades is not None:
        raise typer.BadParameter("--embeddings-url: a features log holds no text to embed")
    try:
        address = TypeAdapter(ReplicaUrl).validate_python(url.rstrip("/").removesuffix("/v1"))
    except ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise typer.BadParameter(f"--embeddings-url: {url!r} {problem}") from None
    return EmbeddingSource(address, model, None if key_file is None else read_key(key_file))


def _embedding_of(
    prompt: str, fitted: "Predictor", url: str | None, model: str | None, key_file: Path | None
) -> "Float32 | None":
    """Return a prompt's embedding, where the predictor looks at one and there is who embeds."""
    from router.prediction.embedding_fetch import fetch_embeddings

    if fitted.embedding is None:
        if url is not None:
            raise typer.BadParameter("the predictor looks at no embeddings; omit --embeddings-url")
        return None
    model = model or fitted.embedding.model
    source = _source(url, model if url else None, key_file, None)
    if source is None:
        print(f"without --embeddings-url the embedding, by {model}, counts as the mean of all\n")
        return None
    return fetch_embeddings([prompt], source, length=fitted.embedding.length)[0]


def _read(data: Path, grades: Path | None, source: "EmbeddingSource | None") -> "LabelledPrompts":
    if grades is not None:
        from router.prediction.graded_traffic import read_graded_traffic

        return read_graded_traffic(data, grades)
    from router.prediction.graded_files import read_labelled

    with _progress("reading prompts") as progress:
        prompts = read_labelled(data, progress=progress)
    return prompts if source is None else _embedded(prompts, data, source)


def _embedded(
    prompts: "LabelledPrompts", data: Path, source: "EmbeddingSource"
) -> "LabelledPrompts":
    """Return the prompts of a file with embeddings, and tell what they took."""
    import time

    from router.prediction.embedding_fetch import fetch_embeddings
    from router.prediction.graded_files import read_graded_prompts

    texts = [one.question for one in read_graded_prompts(data)]
    begin = time.monotonic()
    with _progress("fetching embeddings") as progress:
        embeddings = fetch_embeddings(texts, source, progress=progress)
    lengths = [len(one) for one in embeddings if one is not None]
    each_ms = (time.monotonic() - begin) * 1000 / len(texts)
    print(
        f"embeddings: {len(lengths):,} of {len(texts):,} prompts have one of {lengths[0]} numbers, "
        f"fetched in {each_ms:.1f} ms each"
    )
    if len(lengths) < len(texts):
        print(f"the others are empty or refused by {source.model}: they count as the mean of all")
    return prompts.with_embeddings(embeddings, model=source.model)


def _costs(prompts: "LabelledPrompts", prices: Path | None) -> "Array":
    import numpy as np

    from router.prediction.prices import costs_usd, read_prices

    if prices is None:
        return np.ones(prompts.losses.shape)
    return costs_usd(prompts.models, read_prices(prices), prompts.prompt_tokens.astype(float))


@contextmanager
def _progress(description: str) -> "Iterator[Progress]":
    """Show how far the work is, on standard error."""
    with progress_bar() as bar:
        task = bar.add_task(description, total=None)

        def update(num_done: int, num_all: int) -> None:
            # Drawing costs more than hashing one prompt.
            if num_done % 50 == 0 or num_all < 500 or num_done == num_all:
                bar.update(task, completed=num_done, total=num_all)

        yield update
