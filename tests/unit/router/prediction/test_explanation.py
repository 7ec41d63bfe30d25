"""`motley route explain` by a router's file decides as that router does."""

import json
import time
from pathlib import Path

import click
import pytest
from small_predictor import CODE_PROMPT, POEM_PROMPT, small_predictor

from router.base import Query
from router.cli import run
from router.config import RouterConfig
from router.errors import ParameterError, TrainingDataError
from router.fleet import Fleet
from router.goals import GoalRules, read_header
from router.governance.tenant import ANONYMOUS
from router.model_standing import FleetStanding
from router.output_length import OutputLengths
from router.pool_choice import PoolChoice
from router.pools import make_pools
from router.prediction.predictor_file import write_predictor

FACTS: list[dict[str, object]] = [
    {
        "name": "poet",
        "parameters": 70e9,
        "price_input_usd_per_million": 0.9,
        "price_output_usd_per_million": 0.9,
        "released": "2026-05-01",
        "readability": 0.9,
        "mean_output_tokens": 300,
    },
    {
        "name": "coder",
        "parameters": 8e9,
        "price_input_usd_per_million": 0.1,
        "price_output_usd_per_million": 0.1,
        "released": "2025-05-01",
        "is_local": True,
        "readability": 0.2,
        "mean_output_tokens": 100,
        "context_tokens": 2000,
    },
]


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Return a router's file and its predictor's."""
    write_predictor(small_predictor(), tmp_path / "p.npz")
    models = [{**facts, "replicas": [{"url": "http://127.0.0.1:9"}]} for facts in FACTS]
    choice = {"predictor": "p.npz", "goals": {"smallest": 5}, "flags": {"max_weight": 5}}
    path = tmp_path / "router.yaml"
    path.write_text(json.dumps({"models": models, "model_choice": choice}))
    return path, tmp_path / "p.npz"


def explained(files: tuple[Path, Path], prompt: str, *words: str) -> None:
    """Run the command with the router's file."""
    config, predictor = files
    run(["explain", prompt, "--predictor", str(predictor), "--config", str(config), *words])


@pytest.mark.parametrize("prompt", [CODE_PROMPT, POEM_PROMPT, POEM_PROMPT * 200])
@pytest.mark.parametrize(
    "goals",
    [
        "",
        "smallest=5",
        "cheapest=5",
        "fastest=5",
        "newest=5",
        "most secure=5",
        "shortest=5",
        "most readable=5",
        "newest=0.1, cheapest=0.1, shortest=0.05",
        "smallest=5, quality=0.5",
        "quality=1",
    ],
)
def test_it_picks_what_the_router_picks(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str], prompt: str, goals: str
) -> None:
    """By every goal, a least quality and a context that is too short, and for the same reason."""
    config = RouterConfig.model_validate(json.loads(files[0].read_text()))
    assert config.model_choice is not None
    facts = {model.name: model for model in config.models}
    standing = FleetStanding(Fleet(config.models), OutputLengths(), monotonic=time.monotonic)
    predictor = small_predictor()
    query = Query("auto", {"messages": [{"role": "user", "content": prompt}]})
    chosen = PoolChoice(config.model_choice, facts, predictor, standing).choose(
        make_pools(config.model_choice, predictor, [*facts])["auto"],
        query,
        read_header(goals, GoalRules(max_weight=5), carrier="x"),
        tenant=ANONYMOUS,
    )
    explained(files, prompt, "--goals", goals)
    text = capsys.readouterr().out
    assert f"pick: {chosen.ordered[0]} ({chosen.decision.reason});" in text
    listed = [line.split()[0] for line in text.split("\n\n")[0].splitlines()[1:]]
    assert listed == list(chosen.ordered[: len(listed)])


def test_terms_and_what_is_left_out_are_shown(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The file's goals count without `--goals`; models below a least quality are named."""
    explained(files, POEM_PROMPT)
    told = capsys.readouterr().out
    assert "smallest" in told.splitlines()[0]
    assert "pick: coder" in told
    explained(files, POEM_PROMPT, "--goals", "quality=0.5, most readable=0.3")
    told = capsys.readouterr().out
    assert "most readable" in told.splitlines()[0]
    assert "not as good as asked: coder" in told
    assert "pick: poet" in told


def test_the_predictor_is_the_one_of_the_routers_file(
    files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the command names none; its path begins in the working directory, as the router's does."""
    monkeypatch.chdir(files[0].parent)
    run(["explain", POEM_PROMPT, "--config", str(files[0])])
    assert "pick: coder" in capsys.readouterr().out


def test_what_cannot_be_explained_is_told(files: tuple[Path, Path]) -> None:
    """In one line: words that do not go together, a goal there is not, models nobody knows."""
    config, predictor = files
    words = ["explain", "x", "--predictor", str(predictor)]
    with pytest.raises(click.UsageError, match="--goals needs --config"):
        run([*words, "--goals", "newest"])
    with pytest.raises(click.UsageError, match="--config has the prices"):
        explained(files, "x", "--cheapest", "1")
    with pytest.raises(ParameterError, match="--goals"):
        explained(files, "x", "--goals", "oddest")
    config.write_text(
        json.dumps({"models": [{"name": "other", "replicas": [{"url": "http://127.0.0.1:9"}]}]})
    )
    with pytest.raises(TrainingDataError, match=r"none of the router's models \(other\)"):
        explained(files, "x")
