"""The router file's `model_choice:` block: pools of models, what is predicted of them, and goals."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import ByteSize, Field, model_validator

from planner.config import StrictModel
from planner.units import Name, Number
from router.errors import ParameterError
from router.goals import GoalRules, Goals, make_goals
from router.replica_url import ReplicaUrl

AUTO = "auto"
"""The pool of every model the predictor knows, where the file names no pool of that name."""

_Weight = Annotated[Number, Field(ge=0)]
_Fraction = Annotated[Number, Field(ge=0, le=1)]


class FlagsConfig(StrictModel):
    """Goals as clients carry them, and flags at the end of the last user message among them."""

    in_text: bool = True
    """Whether messages may carry flags. Switch it off where clients put quoted or retrieved text
    behind the question: flags are then text like any other."""
    unknown: Literal["refuse", "ignore"] = "refuse"
    """What becomes of a flag at the end that names no goal: the request is answered 400, or the
    flag is counted and stays where it is."""
    default_weight: _Weight = 0.2
    """Of a goal without one: the predicted loss it is worth to go from the worst to the best."""
    max_weight: _Weight = 1.0
    """Larger weights are clamped to it, whoever sends them."""
    most: Annotated[int, Field(ge=1, le=64)] = 8
    """Goals in one request."""

    @property
    def rules(self) -> GoalRules:
        """What weights are allowed."""
        return GoalRules(self.default_weight, self.max_weight, self.most)


class EmbeddingsConfig(StrictModel):
    """Who embeds the prompts of pools' requests, for a predictor that was fitted with embeddings."""

    url: ReplicaUrl
    """A server with `POST /v1/embeddings`, its address without `/v1`."""
    model: Name | None = None
    """The model there; None: named as in training. It must be the one that was trained with."""
    api_key_file: Path | None = None
    """File of the key it asks for."""
    timeout_seconds: Annotated[Number, Field(gt=0)] = 0.2
    """A request waits no longer for its embedding, and is then judged by its words alone."""


class ModelChoiceConfig(StrictModel):
    """How a model is chosen where a request names a pool of them, such as `auto`."""

    predictor: Path | None = None
    """File that `motley route train` wrote; without it goals alone decide, then the pool's order."""
    embeddings: EmbeddingsConfig | None = None
    """Needed where the predictor looks at embeddings (`motley route train --embeddings-url`); one
    that was trained without, or found no use for them, asks for none."""
    pools: dict[Name, Annotated[tuple[Name, ...], Field(min_length=1)]] = Field(
        default_factory=dict
    )
    """Pool to its models, the one to prefer first. `auto` need not be named: it is every model that
    the predictor knows."""
    goals: dict[str, _Weight | None] = Field(default_factory=dict)
    """Goals of requests that carry none, such as `{cheapest: 0.1}`."""
    flags: FlagsConfig = FlagsConfig()
    """What clients may ask for, and how."""
    explore_fraction: _Fraction = 0.0
    """Share of a pool's requests that go to any eligible model, all alike likely; so that every
    model gets graded. The features log says how likely each pick was."""
    features_log: bool | Path = False
    """File that gets one line a request with hashed features and no text, to train from; `true` is
    `features.jsonl` in the working directory."""
    features_log_bytes: Annotated[ByteSize, Field(gt=0)] = ByteSize(256 * 2**20)
    """Size at which the file is renamed to `NAME.1`, in place of the one before it."""
    grades: Path = Path("grades.jsonl")
    """File that `POST /admin/grades` appends to, beside a features log."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, models in self.pools.items():
            for place, model in enumerate(models):
                if model in models[:place]:
                    raise ValueError(f"pools.{name}.{place}: {model!r} appears twice; remove one")
        if self.predictor is None and not self.pools:
            raise ValueError("neither predictor nor pools is given; name one of them")
        try:
            _ = self.default_goals
        except ParameterError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def default_goals(self) -> Goals:
        """The goals of requests that carry none."""
        return make_goals(self.goals.items(), self.flags.rules, carrier="goals")

    @property
    def features_path(self) -> Path | None:
        """Where the features log goes; None: there is none."""
        if isinstance(self.features_log, Path):
            return self.features_log
        return Path("features.jsonl") if self.features_log else None


def pool_problem(config: ModelChoiceConfig, models: Sequence[str]) -> str | None:
    """Return what is wrong with the pools of a file that serves `models`, or None."""
    for pool, members in config.pools.items():
        if pool in models:
            return f"model_choice.pools.{pool}: is the name of a model too; choose another"
        for place, member in enumerate(members):
            if member not in models:
                return (
                    f"model_choice.pools.{pool}.{place}: {member!r} is no model of this file; "
                    f"name one of: {', '.join(models)}"
                )
    if AUTO in models and AUTO not in config.pools:
        return f"models: {AUTO!r} is the name of the pool of all models; choose another"
    return None
