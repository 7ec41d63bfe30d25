"""What the model choice counts, beside the router's other counters at `/metrics`.

- `motley_router_choices_total{pool, model, reason}`: models picked; a predictor that fails is its own
  reason, `predictor_failed`, never the same as `abstained`.
- `motley_router_goals_total{carrier, goal}`: goals of pools' requests by who carried them.
- `motley_router_flags_total{outcome}`: tails at the end of messages: `removed`, or `unknown` where one
  named no goal and was left in place.
- `motley_router_embedding_failures_total{reason}`: pools' requests that were judged without the embedding
  the predictor looks at: `timeout`, `unreachable`, `refused` (the text), `unusable` (the answer),
  `paused` (not asked, after failures in a row).
"""

from prometheus_client import CollectorRegistry, Counter

from router.goal_carriers import Asked


class ChoiceMetrics:
    """Counters of the model choice."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._choices = Counter(
            "motley_router_choices",
            "Models picked for pools",
            ["pool", "model", "reason"],
            registry=registry,
        )
        self._goals = Counter(
            "motley_router_goals", "Goals asked for", ["carrier", "goal"], registry=registry
        )
        self._flags = Counter(
            "motley_router_flags", "Flags at the end of texts", ["outcome"], registry=registry
        )
        self._embedding_failures = Counter(
            "motley_router_embedding_failures",
            "Requests judged without an embedding",
            ["reason"],
            registry=registry,
        )

    def chosen(self, pool: str, model: str, reason: str) -> None:
        """Count one pick."""
        self._choices.labels(pool, model, reason).inc()

    def asked(self, asked: Asked) -> None:
        """Count the goals of one request."""
        for goal in asked.goals.written():
            self._goals.labels(asked.carrier, goal).inc()

    def flags_removed(self) -> None:
        """Count one request whose messages had tails taken out."""
        self._flags.labels("removed").inc()

    def flag_unknown(self) -> None:
        """Count one request whose last flag names no goal."""
        self._flags.labels("unknown").inc()

    def embedding_failed(self, reason: str) -> None:
        """Count one request whose embedding could not be had."""
        self._embedding_failures.labels(reason).inc()
