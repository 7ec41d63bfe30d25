"""When the server refuses an update."""

import numpy as np
import pytest

from finetune.updates import MOST_REASON_CHARACTERS, Refusal, Update, refusal_reason

LIKE = {"a": np.zeros((2, 3), np.float32), "b": np.zeros((4, 2), np.float32)}


def update(tensors=None, *, num_examples=5, loss=1.0):
    """Return a sound update with some tensors replaced."""
    good = {name: tensor + 1 for name, tensor in LIKE.items()}
    return Update("c", good | (tensors or {}), num_examples, loss, sent_bytes=0)


def test_a_sound_update_is_accepted():
    """Same names, shapes and types, finite values: no reason to refuse."""
    assert refusal_reason(update(), like=LIKE) is None


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (update({"a": np.full((2, 3), np.nan, np.float32)}), "NaN"),
        (update({"b": np.full((4, 2), np.inf, np.float32)}), "infinity"),
        (update({"a": np.ones((3, 2), np.float32)}), "shape (3, 2), not (2, 3)"),
        (update({"a": np.ones((2, 3), np.float64)}), "type float64, not float32"),
        (update({"c": np.ones(1, np.float32)}), "1 unknown tensors, first c"),
        (update({"a": np.full((2, 3), 3e38, np.float32)}), "a holds 3e+38, above 1000"),
        (update(num_examples=0), "claims 0 examples"),
        (update(num_examples=10**18), "claims 1000000000000000000 examples"),
        (update(loss=float("nan")), "training loss of nan"),
    ],
)
def test_a_broken_update_is_refused_with_its_reason(bad, reason):
    """The reason names the tensor or the number that is wrong."""
    assert reason in refusal_reason(bad, like=LIKE)


def test_a_missing_tensor_is_named():
    """An update without one of the tensors is refused."""
    partial = Update("c", {"a": LIKE["a"]}, 5, 1.0, sent_bytes=0)
    assert refusal_reason(partial, like=LIKE) == "lacks 1 tensors, first b"


def test_a_reason_is_one_short_line():
    """What a client sent stands in logs, checkpoints and terminals."""
    reason = Refusal("c", "failed: \x1b[31m\nred" + "x" * 10_000, 0).reason
    assert len(reason) == MOST_REASON_CHARACTERS
    assert reason.isprintable()
    assert reason.startswith("failed:  [31m red")
