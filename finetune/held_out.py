"""Held-out losses: what clients report of an adapter, what is believed, the mean, the worst domain.

The server sees these numbers of every client, under a secure sum too: it hides updates, not losses.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from finetune.adapters import ClientLosses
from finetune.traffic import Totals
from finetune.updates import MOST_EXAMPLES, Evaluation

MOST_LOSS = 1e3
"""Largest loss that is believed, nats a token; guessing evenly among 100,000 tokens costs 11.5."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What came back when an adapter was sent to be judged.

    Attributes:
        evaluations: One of each client that answered.
        download_bytes: Serialised length of everything sent to the clients.
        upload_bytes: Of everything they answered.
    """

    evaluations: tuple[Evaluation, ...]
    download_bytes: int = 0
    upload_bytes: int = 0

    def added_to(self, totals: Totals) -> Totals:
        """Return a run's bytes with those of this judgement."""
        return totals.with_judgement(
            download_bytes=self.download_bytes, upload_bytes=self.upload_bytes
        )


@dataclass(frozen=True, slots=True)
class HeldOut:
    """An adapter's losses on the clients' held-out text, as a line of `metrics.jsonl` has them.

    Attributes:
        loss: By client, nats a token.
        tokens: Tokens scored, by client.
        refused: Reason for each client whose number is not believed.
        mean: Plain mean of `loss`; None where there is none.
        worst: The client that the adapter helps least, of those that judged the base model.
        worst_change: Its loss less the base model's.
    """

    loss: dict[str, float] = field(default_factory=dict)
    tokens: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    mean: float | None = None
    worst: str | None = None
    worst_change: float | None = None

    @classmethod
    def of(cls, evaluations: Iterable[Evaluation], *, base: Sequence[Evaluation]) -> "HeldOut":
        """Return the losses that are believed, beside those of the base model."""
        believed, refused = sifted(evaluations)
        worst = None
        if pairs := compared(base, believed):
            worst = worst_domain(pairs)
        return cls(
            loss={one.client: one.loss for one in believed},
            tokens={one.client: one.num_tokens for one in believed},
            refused=refused,
            mean=math.fsum(one.loss for one in believed) / len(believed) if believed else None,
            worst=None if worst is None else worst.name,
            worst_change=None if worst is None else worst.adapter_loss - worst.base_loss,
        )


def sifted(evaluations: Iterable[Evaluation]) -> tuple[tuple[Evaluation, ...], dict[str, str]]:
    """Return the evaluations that are believed, and the reason for each client that is not."""
    reasons = {one: problem(one) for one in evaluations}
    believed = tuple(one for one, reason in reasons.items() if reason is None)
    return believed, {one.client: reason for one, reason in reasons.items() if reason is not None}


def problem(evaluation: Evaluation) -> str | None:
    """Return why a reported loss is not believed, or None."""
    if not 0 <= evaluation.loss <= MOST_LOSS:  # also where it is no number
        return f"reports a held-out loss of {evaluation.loss:g}, 0 to {MOST_LOSS:g} are believed"
    if not 1 <= evaluation.num_tokens <= MOST_EXAMPLES:
        return f"reports {evaluation.num_tokens} held-out tokens, 1 to {MOST_EXAMPLES} are believed"
    return None


def of_adapter(evaluations: Iterable[Evaluation], adapter: str) -> tuple[Evaluation, ...]:
    """Return those of one adapter under the clients' own names; "" is a job's only one.

    Where a job trains several, an evaluation's client is ADAPTER/CLIENT.
    """
    prefix = f"{adapter}/" if adapter else ""
    return tuple(
        replace(one, client=one.client.removeprefix(prefix))
        for one in evaluations
        if one.client.startswith(prefix)
    )


def compared(base: Iterable[Evaluation], after: Iterable[Evaluation]) -> tuple[ClientLosses, ...]:
    """Return the losses of the clients that judged both, in the order of `after`."""
    before = {one.client: one.loss for one in base}
    return tuple(
        ClientLosses(
            name=one.client,
            held_out_tokens=one.num_tokens,
            base_loss=before[one.client],
            adapter_loss=one.loss,
        )
        for one in after
        if one.client in before
    )


def mean_losses(clients: Sequence[ClientLosses]) -> ClientLosses:
    """Return the plain mean over clients: every domain counts the same."""
    return ClientLosses(
        name="mean",
        held_out_tokens=sum(client.held_out_tokens for client in clients),
        base_loss=sum(client.base_loss for client in clients) / len(clients),
        adapter_loss=sum(client.adapter_loss for client in clients) / len(clients),
    )


def worst_domain(clients: Sequence[ClientLosses]) -> ClientLosses:
    """Return the client that the adapter helps least, or harms most."""
    return max(clients, key=lambda client: client.adapter_loss - client.base_loss)
