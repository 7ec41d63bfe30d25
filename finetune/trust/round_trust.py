"""The job's trust as the round loop uses it: may a round be run, does an update count, for what."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from finetune.errors import SecureSumError
from finetune.sparsity.shared_mask import SharedMask
from finetune.trust.accountant import check_budget
from finetune.trust.checks import FORM_ONLY, Checks
from finetune.trust.combine import combine, flatten
from finetune.trust.config import NO_MORE_THAN_CHECKS, TrustConfig
from finetune.updates import Tensors, Update

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RoundTrust:
    """What a job believes and adds.

    Attributes:
        config: The job's `trust:` block.
        checks: What each update must be.
        num_expected: Clients asked in each round.
        generator: Source of privacy's noise; None seeds one from the system's entropy each time.
        mask: The entries that all clients send; None where each sends its own, or all.
    """

    config: TrustConfig = NO_MORE_THAN_CHECKS
    checks: Checks = FORM_ONLY
    num_expected: int = 1
    generator: np.random.Generator | None = None
    mask: SharedMask | None = None

    @property
    def makes_the_mean(self) -> bool:
        """Whether the strategy gets one update, of which it cannot tell how far from exact it is."""
        return self.config.averages_entries or self.config.secure_sum is not None

    def spend(self, round_number: int) -> float | None:
        """Return epsilon once this round is published, None without differential privacy.

        Raises:
            PrivacyBudgetError: If it is more than the job allows.
        """
        privacy = self.config.privacy
        if privacy is None:
            return None
        epsilon = check_budget(
            noise_multiplier=privacy.noise_multiplier,
            num_rounds=round_number,
            delta=privacy.delta,
            most_epsilon=privacy.most_epsilon,
        )
        logger.info(
            "privacy spent round=%d epsilon=%.3f delta=%g", round_number, epsilon, privacy.delta
        )
        return epsilon

    def believed(
        self, updates: Sequence[Update], *, start: Tensors, round_number: int
    ) -> list[Update]:
        """Return what the job's strategy averages in place of the accepted updates; see `combine`.

        Raises:
            CohortError: If a robust rule gets too few of them.
            SecureSumError: If single updates came where the job wants their sum only.
        """
        if self.config.secure_sum is not None:
            if not all(update.is_sum for update in updates):
                raise SecureSumError(
                    "trust.secure_sum is asked for, but single updates came; these clients do not "
                    "take part in secure sums"
                )
            return list(updates)
        return combine(
            updates,
            start=start,
            trust=self.config,
            num_expected=self.num_expected,
            scale=self.checks.scale,
            generator=self.generator,
            is_sent_N=self._is_sent(start, round_number),
        )

    def _is_sent(self, start: Tensors, round_number: int) -> NDArray[np.bool_] | None:
        """Return which entries all clients send, in the order of `start`."""
        if self.mask is None:
            return None
        ones = np.ones(self.mask.num_entries(start, round_number=round_number))
        return flatten(self.mask.spread(ones, start, round_number=round_number)) > 0


CHECKS_ONLY = RoundTrust()
"""Checks of form, and the job's strategy over all that passes."""
