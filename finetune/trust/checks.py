"""Every check an update passes before it counts: form, version, base model, length."""

from dataclasses import dataclass

from finetune.trust.identity import BaseIdentity, difference
from finetune.trust.norms import change_norm, product_change_norm
from finetune.updates import Tensors, Update, refusal_reason


@dataclass(frozen=True, slots=True)
class Checks:
    """What the server asks of an update beside its form.

    Attributes:
        identity: The job's base model; None asks for none.
        most_norm: Longest believed change of all tensors together; None for no limit.
        most_product_norm: Longest believed change of all scaled products `B @ A` together; None
            for no limit.
        scale: LoRA's alpha / rank.
    """

    identity: BaseIdentity | None = None
    most_norm: float | None = None
    most_product_norm: float | None = None
    scale: float = 1.0

    def reason(self, update: Update, *, like: Tensors, version: int | None = None) -> str | None:
        """Return why `update` must not be aggregated, or None if it may.

        Args:
            update: What a client sent.
            like: The adapter it was sent.
            version: Number of that adapter; None if it is not known.
        """
        if self.identity is not None:
            wrong = difference(update.identity, self.identity)
            if wrong is not None:
                return wrong
        if version is not None and update.version is not None and update.version != version:
            return f"was trained from adapter version {update.version}, not {version}"
        return refusal_reason(update, like=like) or self._length(update.tensors, like)

    def _length(self, tensors: Tensors, start: Tensors) -> str | None:
        if self.most_norm is not None:
            norm = change_norm(tensors, start=start)
            if norm > self.most_norm:
                return f"changes the adapter by norm {norm:.4g}, above {self.most_norm:g}"
        if self.most_product_norm is not None:
            norm = product_change_norm(tensors, start=start, scale=self.scale)
            if norm > self.most_product_norm:
                return f"changes the products by norm {norm:.4g}, above {self.most_product_norm:g}"
        return None


FORM_ONLY = Checks()
"""Names, shapes, types, finite values and believable counts."""
