"""Drafting without a model: a sequence's own text is where its guesses come from."""

from torch import Tensor

from serving.engine.draft_tree import DraftTree
from serving.engine.scheduler import Scheduled
from serving.engine.sequence import Sequence


class NgramDrafter:
    """Proposes what followed when the last tokens stood in the sequence before, as a chain."""

    context_tokens = None
    num_without_room = 0
    reads_features = False

    def propose(self, step: list[Scheduled]) -> list[DraftTree]:
        """Return one chain for each sequence, empty where its last tokens are new."""
        return [self._guess(part) for part in step]

    def settle(self, sequence: Sequence, features_NE: Tensor | None) -> None:
        """Do nothing: `propose` takes in what is new."""

    @staticmethod
    def _guess(part: Scheduled) -> DraftTree:
        count = min(part.num_drafts, part.most_depth)
        if count < 1:
            return DraftTree()
        sequence = part.sequence
        sequence.ngrams.extend(sequence.tokens[len(sequence.ngrams) :])
        return DraftTree.chain(sequence.allowed_prefix(sequence.ngrams.propose(count)))
