"""What virtual models count, at `/metrics`.

- `motley_router_minions_answers_total{protocol, result}`: answers by their mark; `error` is none.
- `motley_router_minions_jobs_total{end}`: jobs that were found, empty, abstained, failed.
- `motley_router_minions_tokens_total{side}`: tokens of the local and the remote side.
"""

from prometheus_client import CollectorRegistry, Counter

from router.minions.accounting import Ledger
from router.minions.outcome import Outcome


class MinionsMetrics:
    """Counters of answers, jobs and tokens."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._answers = Counter(
            "motley_router_minions_answers",
            "Answers of virtual models",
            ["protocol", "result"],
            registry=registry,
        )
        self._jobs = Counter(
            "motley_router_minions_jobs", "Jobs by their end", ["end"], registry=registry
        )
        self._tokens = Counter(
            "motley_router_minions_tokens", "Tokens by side", ["side"], registry=registry
        )

    def answered(self, protocol: str, outcome: Outcome) -> None:
        """Count one answer and its jobs."""
        self._answers.labels(protocol, str(outcome.result)).inc()
        num_found = outcome.num_jobs - outcome.num_empty - outcome.num_abstained
        self._jobs.labels("found").inc(num_found - outcome.num_failed)
        self._jobs.labels("empty").inc(outcome.num_empty)
        self._jobs.labels("abstained").inc(outcome.num_abstained)
        self._jobs.labels("failed").inc(outcome.num_failed)

    def failed(self, protocol: str) -> None:
        """Count one request that got no answer."""
        self._answers.labels(protocol, "error").inc()

    def spent(self, ledger: Ledger) -> None:
        """Count tokens, of requests without an answer too."""
        self._tokens.labels("local").inc(ledger.local.total_tokens)
        self._tokens.labels("remote").inc(ledger.remote.total_tokens)
