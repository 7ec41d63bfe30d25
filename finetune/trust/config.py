"""The `trust:` block of a job: what is checked, bounded, hidden. Checks of form always run."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from finetune.trust.accountant import epsilon_spent
from finetune.trust.robust import least_clients
from planner.config import StrictModel


class MedianConfig(StrictModel):
    """The median of each entry."""

    kind: Literal["median"]
    """Chooses this rule."""
    num_attackers: int = Field(ge=1)
    """Clients that may send anything."""


class TrimmedMeanConfig(StrictModel):
    """The mean of each entry without its extremes."""

    kind: Literal["trimmed-mean"]
    """Chooses this rule."""
    num_attackers: int = Field(ge=1)
    """Clients that may send anything; as many values are left out at each end."""


class KrumConfig(StrictModel):
    """The mean of the updates that lie closest to their neighbours."""

    kind: Literal["krum"]
    """Chooses this rule."""
    num_attackers: int = Field(ge=1)
    """Clients that may send anything."""
    num_kept: int | None = Field(default=1, gt=0)
    """Updates averaged: 1 is Krum, more Multi-Krum, null as many as the rule allows."""
    distance: Literal["factors", "products"] = "products"
    """What is compared: clients that agree on a product may hold it in different factors."""


RobustConfig = Annotated[MedianConfig | TrimmedMeanConfig | KrumConfig, Field(discriminator="kind")]


class PrivacyConfig(StrictModel):
    """Differential privacy of whole clients: clipping and noise at the server.

    It covers the adapter. Losses, example counts and who answered stand in the metrics as they are,
    and a run that is continued draws other noise than an unbroken one.
    """

    clip_norm: float = Field(gt=0)
    """Longest change of one client; longer ones are scaled down."""
    noise_multiplier: float = Field(gt=0)
    """Deviation of the noise on the sum of the changes, in clipping norms."""
    delta: float = Field(gt=0, lt=1)
    """Probability with which epsilon may fail; below one over the number of clients."""
    most_epsilon: float = Field(gt=0)
    """A job that would spend more is refused, and no round that would is begun."""

    def obstacle(self, *, num_clients: int, num_rounds: int) -> str | None:
        """Return why a job of so many clients and rounds cannot be this private, or None."""
        if self.delta >= 1 / num_clients:
            return (
                f"trust.privacy.delta: {self.delta:g} lets one of {num_clients} clients be shown "
                "whole; give less than one over their number"
            )
        spent = epsilon_spent(
            noise_multiplier=self.noise_multiplier, num_rounds=num_rounds, delta=self.delta
        )
        if spent > self.most_epsilon:
            return (
                f"trust.privacy.most_epsilon: {num_rounds} rounds spend {spent:.3g}, more than "
                f"{self.most_epsilon:g}; raise noise_multiplier or lower rounds"
            )
        return None


class SecureSumConfig(StrictModel):
    """The server sees the sum of the updates only."""

    threshold: int = Field(ge=2)
    """Fewest clients whose sum is shown, more than half of the job's; as many may be lost in a
    round as there are clients above it."""
    bits: Literal[16, 32] = 32
    """Width of an entry on the wire. Rounding costs each entry of the mean at most about
    clip_norm * clients / 2^bits."""


class TrustConfig(StrictModel):
    """What the server believes and what it adds; by default only checks."""

    most_norm: float | None = Field(default=None, gt=0)
    """An update that changes the adapter by a longer norm is refused; null: no limit."""
    most_product_norm: float | None = Field(default=None, gt=0)
    """An update that changes the scaled products B A of all layers by a longer Frobenius norm is
    refused; null: no limit."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Longer changes are scaled down to this norm; null: none is."""
    most_examples: int | None = Field(default=None, gt=0)
    """A client that claims more examples counts as one that has so many; null: a client's claim is
    its weight."""
    robust: RobustConfig | None = None
    """Aggregation that withstands attackers; null: the mean weighted by examples."""
    privacy: PrivacyConfig | None = None
    """Differential privacy; null: none."""
    secure_sum: SecureSumConfig | None = None
    """Secure aggregation; null: none."""

    @property
    def longest_change(self) -> float | None:
        """Norm above which changes are scaled down, by whichever part says so."""
        return self.clip_norm if self.privacy is None else self.privacy.clip_norm

    @property
    def averages_entries(self) -> bool:
        """Whether trust makes the mean itself and leaves the job's aggregation one update."""
        is_entrywise = self.robust is not None and self.robust.kind != "krum"
        return self.privacy is not None or is_entrywise

    @property
    def least_clients(self) -> int:
        """Fewest clients whose updates can be aggregated."""
        if self.robust is None:
            return 1
        extra = 2 if self.robust.kind == "krum" else 0
        least = least_clients(self.robust.num_attackers, extra=extra)
        if isinstance(self.robust, KrumConfig) and self.robust.num_kept is not None:
            least = max(least, self.robust.num_kept + self.robust.num_attackers + 2)
        return least

    def obstacle(self, *, num_clients: int, num_rounds: int) -> str | None:
        """Return why a job of so many clients and rounds cannot have this trust, or None."""
        if num_clients < self.least_clients:
            return (
                f"trust.robust: {num_clients} clients, {self.least_clients} are needed; lower "
                "num_attackers or num_kept"
            )
        if self.secure_sum is not None and not num_clients < 2 * self.secure_sum.threshold <= (
            2 * num_clients
        ):
            return (
                f"trust.secure_sum.threshold: {self.secure_sum.threshold} of {num_clients} "
                "clients; give more than half of them and no more than there are"
            )
        if self.privacy is None:
            return None
        return self.privacy.obstacle(num_clients=num_clients, num_rounds=num_rounds)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.privacy is not None and self.robust is not None:
            raise ValueError(
                f"trust.robust: {self.robust.kind} with privacy has no bound on what one client "
                "changes; drop one of the two"
            )
        if self.privacy is not None and self.clip_norm is not None:
            raise ValueError(
                f"trust.clip_norm: {self.clip_norm:g} beside privacy.clip_norm; drop it"
            )
        if self.most_examples is not None and (self.robust or self.privacy):
            raise ValueError(
                f"trust.most_examples: {self.most_examples} bounds weights, and under robust or "
                "privacy every client counts the same; drop it"
            )
        if self.secure_sum is not None:
            self._check_secure_sum()
        return self

    def _check_secure_sum(self) -> None:
        if self.privacy is not None and self.secure_sum is not None and self.secure_sum.bits == 16:
            raise ValueError(
                "trust.secure_sum.bits: 16 rounds by more than privacy accounts for; take 32"
            )
        if self.robust is not None:
            raise ValueError(
                f"trust.robust: {self.robust.kind} compares single updates, which secure_sum hides; "
                "drop one of the two"
            )
        if self.most_norm is not None or self.most_product_norm is not None:
            raise ValueError(
                "trust.secure_sum: hides how long an update is; drop most_norm and "
                "most_product_norm, clients clip to clip_norm themselves"
            )
        if self.longest_change is None:
            raise ValueError(
                "trust.secure_sum: sums whole numbers below a bound; give clip_norm, or privacy"
            )


NO_MORE_THAN_CHECKS = TrustConfig()
"""What a job that says nothing about trust gets."""
