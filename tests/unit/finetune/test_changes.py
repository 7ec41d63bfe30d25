"""Changes added up to the next version, and FedStale's memory of them."""

import numpy as np
import pytest

from finetune.strategies.changes import apply_changes, change
from finetune.strategies.fedstale import StaleMemory, mix


def adapter(*values):
    """Return an adapter of two tensors that are not square."""
    a, b = values
    return {"a": np.full((2, 3), a, np.float32), "b": np.full((4, 2), b, np.float32)}


def values(tensors):
    """Return the one value each tensor is filled with."""
    return [float(np.unique(tensors[name]).item()) for name in ("a", "b")]


def test_shares_of_examples_as_weights_give_the_weighted_mean():
    """Start plus the weighted changes is the weighted mean of what was trained."""
    generator = np.random.default_rng(2)
    names = {"a": (2, 3), "b": (4, 2)}
    start, one, two = (
        {name: generator.normal(size=shape).astype(np.float32) for name, shape in names.items()}
        for _ in range(3)
    )
    moved = apply_changes(start, [change(one, start), change(two, start)], [0.25, 0.75])
    for name in names:
        mean = (one[name] + 3 * two[name]) / 4
        np.testing.assert_allclose(moved[name], mean, rtol=1e-6, atol=1e-6)
        assert moved[name].dtype == np.float32


def test_nothing_to_add_leaves_the_adapter():
    """No change, no difference, and the values are a copy."""
    start = adapter(1, 2)
    same = apply_changes(start, [], [])
    assert values(same) == [1, 2]
    assert same["a"] is not start["a"]


def test_as_many_weights_as_changes_are_asked_for():
    """A weight too few is the caller's mistake."""
    with pytest.raises(ValueError, match="0 weights for 1 changes"):
        apply_changes(adapter(0, 0), [adapter(1, 1)], [])


EXAMPLES = {"p": 1, "q": 1, "r": 2}


def test_beta_0_is_fedavg_over_those_present():
    """P and r weigh 1/3 and 2/3; what q sent earlier does not count."""
    mean = mix({"p": adapter(3, 6), "r": adapter(6, 3)}, {"q": adapter(9, 9)}, EXAMPLES, beta=0)
    assert values(mean) == pytest.approx([5, 4])


def test_an_absent_client_is_stood_in_for_by_its_last_change():
    """By hand, beta 1/2: memory p 2, q 8; fresh p 4, r 6, whose share is 3/4.

    1/2 * (2/4 + 8/4) + (1/4 * (4 - 1) + 2/4 * 6) / (3/4) = 1.25 + 5 = 6.25.
    """
    fresh = {"p": adapter(4, 4), "r": adapter(6, 6)}
    remembered = {"p": adapter(2, 2), "q": adapter(8, 8)}
    assert values(mix(fresh, remembered, EXAMPLES, beta=0.5)) == pytest.approx([6.25, 6.25])


def test_beta_1_with_everybody_present_is_the_plain_mean():
    """The remembered changes cancel: 1/4 * 4 + 1/4 * 8 + 2/4 * 6 = 6."""
    fresh = {"p": adapter(4, 4), "q": adapter(8, 8), "r": adapter(6, 6)}
    remembered = {"p": adapter(-9, 5), "r": adapter(7, 7)}
    assert values(mix(fresh, remembered, EXAMPLES, beta=1)) == pytest.approx([6, 6])


def test_the_mean_over_all_draws_is_that_of_all_clients():
    """With the true chances of presence the estimate has no bias, whatever is remembered."""
    changes = {"p": adapter(4, 1), "q": adapter(8, 2), "r": adapter(6, 3)}
    remembered = {"p": adapter(1, 1), "q": adapter(5, 0)}
    chances = {"p": 0.5, "q": 0.25, "r": 0.25}
    total = np.zeros(2)
    for client, chance in chances.items():
        fresh = {client: changes[client]}
        total += chance * np.array(
            values(mix(fresh, remembered, EXAMPLES, beta=0.7, presence=chances))
        )
    assert total == pytest.approx([1 / 4 * 4 + 1 / 4 * 8 + 2 / 4 * 6, 1 / 4 + 2 / 4 + 6 / 4])


@pytest.mark.parametrize(
    ("fresh", "beta", "message"),
    [({}, 0.5, "no change to mix"), ({"p": adapter(1, 1)}, 1.5, "beta is 1.5; choose 0")],
)
def test_impossible_mixes_are_refused(fresh, beta, message):
    """The message names what is wrong."""
    with pytest.raises(ValueError, match=message):
        mix(fresh, {}, EXAMPLES, beta=beta)


def test_the_memory_keeps_the_last_change_and_comes_back_from_its_arrays():
    """One array for each client and tensor; a new change takes the old one's place."""
    memory = StaleMemory()
    memory.remember({"p": adapter(1, 2), "q.1": adapter(3, 4)})
    memory.remember({"p": adapter(5, 6)})
    back = StaleMemory.from_arrays(memory.to_arrays())
    assert {client: values(tensors) for client, tensors in back.changes.items()} == {
        "p": [5, 6],
        "q.1": [3, 4],
    }
    back.forget()
    assert back.to_arrays() == {}
