"""What a verified sequence says next: the request's rules, then the race, then the tree's verdict.

Shape letters: N verified rows, the root's place first, V vocabulary.
"""

from torch import Tensor

from serving.engine.acceptance import Verdict, verify
from serving.engine.draft_tree import DraftTree
from serving.engine.processors import processed
from serving.engine.sampling import choices
from serving.engine.sequence import Sequence


def choose(sequence: Sequence, tree: DraftTree, logits_NV: Tensor) -> Verdict | None:
    """Return which nodes stay and what follows them.

    Args:
        sequence: Whose tokens the tree stands behind.
        tree: What was drafted, empty for nothing.
        logits_NV: The target's behind the root's place and each node. Shape: (N, V).

    Returns:
        None where a row that decides leaves no token to choose, or the grammar has failed.
    """
    params = sequence.request.params
    logits_NV = processed(logits_NV, params, sequence.histories(tree.row_paths))
    # The largest is NaN where any is; a token ruled out by -inf is no fault.
    sound_N = logits_NV.amax(-1).isfinite().cpu()
    if not params.is_greedy:
        # Rows of no distribution become one, and fail the request only where they are reached.
        logits_NV = logits_NV.where(sound_N[:, None].to(logits_NV.device), 0.0)
    races = sequence.races([0, *tree.depths], logits_NV.shape[-1])
    verdict = verify(tree, choices(logits_NV, params, races))
    is_followed = sequence.grammar is None or sequence.grammar.error is None
    return verdict if is_followed and bool(sound_N[verdict.rows].all()) else None
