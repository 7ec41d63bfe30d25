"""The choice of one of a pool's models for one request: who is eligible, what is predicted, the pick.

Eligible are the models the client may use of which a replica can take requests and whose context the
request fits, by an estimate of its tokens. Goals re-rank these and never add to them. Where no model
passes the last two filters they are dropped: the router's own attempts find out, and say, why.
"""

import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from router.base import Query
from router.choice_config import ModelChoiceConfig
from router.errors import ModelForbiddenError
from router.facts import ModelFacts
from router.goal_costs import Expectation
from router.goals import Goals
from router.governance.tenant import Tenant
from router.input_size import START_TOKENS_PER_BYTE
from router.model_decision import Decision, Outlook, best_single, decide, explore
from router.model_standing import ModelStanding
from router.pools import Pool
from router.prediction.features import HashedFeatures, hash_text
from router.prediction.predictor import Predictor
from router.prompt_text import prompt_text

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Chosen:
    """One decision and what it rests on."""

    models: tuple[str, ...]
    """Those eligible, in the pool's order."""
    decision: Decision
    features: HashedFeatures | None = None
    """Of the prompt, where it was looked at."""
    outlook: Outlook | None = None

    @property
    def ordered(self) -> tuple[str, ...]:
        """The models as they are to be tried."""
        return tuple(self.models[place] for place in self.decision.order)


class PoolChoice:
    """Chooses; remembers nothing."""

    def __init__(
        self,
        config: ModelChoiceConfig,
        facts: Mapping[str, ModelFacts],
        predictor: Predictor | None,
        standing: ModelStanding,
        *,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._facts = facts
        self._explore_fraction = config.explore_fraction
        self._predictor = predictor
        self._standing = standing
        self._draw = draw

    def choose(
        self,
        pool: Pool,
        query: Query,
        goals: Goals,
        *,
        tenant: Tenant,
        embedding: NDArray[np.float32] | None = None,
    ) -> Chosen:
        """Return the decision for a request, without flags.

        Args:
            pool: Whose models are compared.
            query: The request.
            goals: What is asked for.
            tenant: The client.
            embedding: Of the prompt, where the predictor looks at one and it could be had.

        Raises:
            ModelForbiddenError: If the client may use none of the pool's models.
        """
        expectations = self._eligible(pool, query, tenant)
        models = tuple(expectations)
        features = outlook = None
        if self._predictor is not None and pool.columns is not None:
            columns = pool.columns[[pool.models.index(model) for model in models]]
            try:
                features = hash_text(prompt_text(query.fields))
                if embedding is not None:
                    features = replace(features, embedding=embedding)
                outlook = outlook_of(self._predictor, features, columns)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with it, requests go on
                logger.warning("predictor failed pool=%s error=%s", pool.name, type(error).__name__)
                means = self._predictor.mean_losses[columns].tolist()
                return Chosen(models, best_single(means), features)
        decision = decide(outlook, list(expectations.values()), goals)
        if self._explore_fraction and goals.min_quality is None:
            decision = explore(decision, fraction=self._explore_fraction, draw=self._draw())
        return Chosen(models, decision, features, outlook)

    def _eligible(self, pool: Pool, query: Query, tenant: Tenant) -> dict[str, Expectation]:
        """Return the eligible models with what the request would be with them."""
        allowed = [model for model in pool.models if tenant.allows(model)]
        if not allowed:
            raise ModelForbiddenError(pool.name, tenant.models or ())
        able = [model for model in allowed if self._standing.is_available(model)] or allowed
        return fitting(
            {model: expected_of(model, self._facts[model], query, self._standing) for model in able}
        )


def expected_of(
    model: str, facts: ModelFacts, query: Query, standing: ModelStanding
) -> Expectation:
    """Return what a request would be with a model."""
    size = query.prompt.size
    output_tokens = standing.output_tokens(model, query.fields)
    if facts.mean_output_tokens is not None:
        output_tokens = min(output_tokens, facts.mean_output_tokens)
    return Expectation(
        facts=facts,
        prompt_tokens=size.id_tokens + round(size.text_bytes * START_TOKENS_PER_BYTE),
        output_tokens=output_tokens,
        mean_output_tokens=facts.mean_output_tokens or standing.output_tokens(model, {}),
        seconds=standing.seconds(model, output_tokens),
    )


def fitting(expectations: Mapping[str, Expectation]) -> dict[str, Expectation]:
    """Return the models whose context the request fits; all of them where it fits none."""
    found = {model: one for model, one in expectations.items() if _fits(one)}
    return found or dict(expectations)


def _fits(one: Expectation) -> bool:
    context = one.facts.context_tokens
    return context is None or one.prompt_tokens + one.output_tokens <= context


def outlook_of(
    predictor: Predictor, features: HashedFeatures, columns: NDArray[np.intp]
) -> Outlook:
    """Return what is predicted of some of the predictor's models.

    Raises:
        ValueError: If a prediction is no number.
    """
    prediction = predictor.predict_features(features)
    losses = prediction.losses[columns]
    if not np.isfinite(losses).all():
        raise ValueError("a predicted loss is not finite")
    return Outlook(
        losses=tuple(losses.tolist()),
        standard_errors=tuple(prediction.standard_errors[columns].tolist()),
        mean_losses=tuple(predictor.mean_losses[columns].tolist()),
        margin=predictor.settings.abstain_margin,
    )
