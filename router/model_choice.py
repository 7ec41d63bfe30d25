"""Who answers a request: from the name a client sends to the models to try, the best first.

A pool's name (`auto` among them) becomes one of its models, the others follow as fallbacks; any other
name stays what it is. Either way flags and the field `motley` are taken out first (`clean_call.py`).
The answer to a pool's request carries `x-motley-model` and `x-motley-reason`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from router.call import Call
from router.choice_config import ModelChoiceConfig
from router.choice_metrics import ChoiceMetrics
from router.clean_call import Cleaned, clean_call, cleaned
from router.config import ModelConfig
from router.embedder import Embedder
from router.features_log import FeaturesLine, FeaturesLog
from router.goal_carriers import Asked, asked_goals
from router.goals import NO_GOALS
from router.governance.tenant import ANONYMOUS, Tenant
from router.model_decision import Decision
from router.model_standing import ModelStanding
from router.pool_choice import Chosen, PoolChoice
from router.pools import make_pools
from router.prediction.features import hash_text
from router.prediction.predictor import Predictor
from router.prompt_text import prompt_text

NAMED = "named"
"""The reason in the features log where the client named the model itself."""
FALLBACK = "fallback"
"""The reason a client is told where another model than the pick answered."""

Headers = Iterable[tuple[bytes, bytes]]
Embedding = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """Who is to answer a request."""

    call: Call
    """The request as it goes on: without flags, and of a pool with the pick in the pool's place."""
    models: tuple[str, ...] = ()
    """Those who may answer, the pick first; empty where the client named the model itself."""
    pool: str | None = None
    """The pool the client named."""
    reason: str | None = None
    """Why the pick was picked; see `model_decision.py` and `objective.py`."""
    goals: Mapping[str, float] | None = None
    """What was asked for, goal to weight."""

    def record(self) -> dict[str, object] | None:
        """Return what the traffic log keeps of a choice; None where there was none."""
        if self.pool is None:
            return None
        return {"pool": self.pool, "reason": self.reason, "goals": self.goals}

    def headers(self, answered: str | None = None) -> list[tuple[bytes, bytes]]:
        """Return what the client is told of a choice.

        Args:
            answered: The model the answer is from; None: the pick, so far.
        """
        if self.reason is None:
            return []
        model = answered or self.models[0]
        reason = self.reason if model == self.models[0] else FALLBACK
        return [(b"x-motley-model", model.encode()), (b"x-motley-reason", reason.encode())]


class ModelChoice:
    """Plans requests; remembers nothing of them."""

    def __init__(
        self,
        config: ModelChoiceConfig,
        models: Sequence[ModelConfig],
        predictor: Predictor | None,
        standing: ModelStanding,
        metrics: ChoiceMetrics,
        features_log: FeaturesLog | None = None,
        embedder: Embedder | None = None,
    ) -> None:
        """Choose among `models` as `config` says.

        Raises:
            StartError: If pools and predictor do not fit together.
        """
        facts = {model.name: model for model in models}
        self.pools = make_pools(config, predictor, [*facts])
        """By name."""
        self._flags = config.flags
        self._default_goals = config.default_goals
        self._choice = PoolChoice(config, facts, predictor, standing)
        self._metrics = metrics
        self._features_log = features_log
        self._embedder = embedder

    @property
    def members(self) -> dict[str, tuple[str, ...]]:
        """Each pool's models."""
        return {name: pool.models for name, pool in self.pools.items()}

    def wants_embedding(self, call: Call) -> bool:
        """Whether `plan` is better with the embedding of the request's prompt."""
        return self._embedder is not None and call.query.model in self.pools

    async def embedding(self, call: Call) -> Embedding | None:
        """Return the embedding of a prompt without its flags; None: it could not be had."""
        if self._embedder is None:
            return None
        query = cleaned(call.query, self._flags).query
        return await self._embedder.embed(prompt_text(query.fields))

    def plan(
        self,
        call: Call,
        headers: Headers,
        *,
        request_id: str,
        arrival_unix_seconds: float,
        tenant: Tenant = ANONYMOUS,
        embedding: Embedding | None = None,
    ) -> ModelPlan:
        """Return who is to answer `call`.

        Args:
            call: As the client sent it.
            headers: Of the client's request, names in lower case.
            request_id: For the features log.
            arrival_unix_seconds: Likewise.
            tenant: The client.
            embedding: Of the prompt; None: it is judged by its words alone.

        Raises:
            ParameterError: If a pool's request asks for what is no goal.
            ParameterError: If the field `motley` of one has another shape.
            ModelForbiddenError: If the client may use none of the pool's models.
        """
        name = call.query.model
        clean = cleaned(call.query, self._flags)
        if clean.has_flags:
            self._metrics.flags_removed()
        pool = self.pools.get(name)
        if pool is None:
            chosen, asked = Chosen((name,), Decision((0,), NAMED)), Asked(NO_GOALS, "config")
            plan = ModelPlan(clean_call(call, clean))
        else:
            asked = self._asked(headers, call.query.fields, clean)
            chosen = self._choice.choose(
                pool, clean.query, asked.goals, tenant=tenant, embedding=embedding
            )
            pick, *_ = models = chosen.ordered
            self._metrics.chosen(name, pick, chosen.decision.reason)
            changed = clean_call(call, clean, model=pick)
            reason = chosen.decision.reason
            plan = ModelPlan(changed, models, name, reason, asked.goals.written())
        if self._features_log is not None:
            line = _features_line(name, chosen, asked, clean, request_id, arrival_unix_seconds)
            self._features_log.write(line)
        return plan

    def _asked(self, headers: Headers, fields: Mapping[str, object], clean: Cleaned) -> Asked:
        if clean.tail.problem == "unknown":
            self._metrics.flag_unknown()
        asked = asked_goals(headers, fields, clean.tail, self._flags, self._default_goals)
        self._metrics.asked(asked)
        return asked


def _features_line(
    name: str,
    chosen: Chosen,
    asked: Asked,
    clean: Cleaned,
    request_id: str,
    arrival_unix_seconds: float,
) -> FeaturesLine:
    losses = None if chosen.outlook is None else chosen.outlook.losses
    return FeaturesLine(
        request_id=request_id,
        arrival_unix_seconds=arrival_unix_seconds,
        asked=name,
        models=chosen.models,
        predicted=None if losses is None else tuple(1 - loss for loss in losses),
        pick=chosen.ordered[0],
        reason=chosen.decision.reason,
        propensity=chosen.decision.propensity,
        goals=asked.goals.written(),
        prompt_bytes=clean.query.prompt.size.text_bytes,
        features=chosen.features or hash_text(prompt_text(clean.query.fields)),
    )
