"""Layers of each stage: the published rule, and the min-max programme against every split."""

import random
from itertools import product

import pytest

from planner.placing.makespan import least_seconds
from planner.placing.pipeline import Boundary, Pipeline
from planner.placing.pipeline_costs import Line
from planner.placing.stage_layers import min_max_layers, proportional_layers, soonest_layers


def test_the_published_example() -> None:
    """48 layers at 197 and 160 are 26 and 22; with alpha 1.05 the first stage has 27."""
    assert proportional_layers(48, (197, 160)) == (26, 22)
    assert proportional_layers(48, (197, 160), alpha=1.05) == (27, 21)


def test_the_programme_on_the_published_example() -> None:
    """27 and 21 are faster: the slowest stage takes 27/197, under the rule's 22/160."""
    assert min_max_layers(48, [Line(1 / 197, 0), Line(1 / 160, 0)], [48, 48]) == (27, 21)
    assert 27 / 197 < 22 / 160


def test_even_shares_are_not_rounded_down() -> None:
    """Speeds that divide the layers in theory do so in floating point too."""
    assert proportional_layers(12, (0.1, 0.1, 0.1)) == (4, 4, 4)


@pytest.mark.parametrize("seed", range(40))
def test_no_split_beats_the_programme(seed: int) -> None:
    """The slowest stage is as fast as in the best of all splits, and of those the sum is least."""
    chance = random.Random(seed)
    for _ in range(10):
        num_stages, num_layers = chance.randint(1, 4), chance.randint(4, 12)
        costs = [
            Line(chance.choice([1.0, 2.0, chance.uniform(0.1, 3)]), chance.choice([0.0, 4.5]))
            for _ in range(num_stages)
        ]
        most = [chance.randint(0, 9) for _ in range(num_stages)]
        splits = [
            split
            for split in product(*[range(1, each + 1) for each in most])
            if sum(split) == num_layers
        ]
        found = min_max_layers(num_layers, costs, most)
        if not splits:
            assert found is None
            continue
        assert found in splits
        slowest, together = min(_weight(costs, split) for split in splits)
        assert _weight(costs, found) == (slowest, pytest.approx(together))


@pytest.mark.parametrize("seed", range(40))
def test_the_programme_is_never_slower_than_the_published_rule(seed: int) -> None:
    """On random speeds its slowest stage takes at most as long, wherever the rule leaves none empty."""
    compared = 0
    chance = random.Random(seed)
    for _ in range(10):
        speeds = [chance.uniform(0.2, 5) for _ in range(chance.randint(1, 16))]
        num_layers = chance.randint(len(speeds), 126)
        published = proportional_layers(num_layers, speeds)
        if 0 in published:
            continue
        compared += 1
        costs = [Line(1 / speed, 0.0) for speed in speeds]
        found = min_max_layers(num_layers, costs, [num_layers] * len(speeds))
        assert found is not None
        assert _weight(costs, found)[0] <= _weight(costs, published)[0]
    assert compared


@pytest.mark.parametrize("seed", range(30))
def test_no_split_ends_sooner(seed: int) -> None:
    """Of all splits, the one counting filling and draining has the least bound of the step."""
    chance = random.Random(seed)
    num_stages, num_layers = chance.randint(1, 4), chance.randint(4, 10)
    costs = [Line(chance.uniform(0.1, 3), chance.choice([0.0, 2.0])) for _ in range(num_stages)]
    most = [chance.randint(0, 9) for _ in range(num_stages)]
    transfers = [chance.choice([0.0, 1.5]) for _ in range(num_stages - 1)]
    gradient, micro_batches = Line(chance.uniform(0, 2), 1.0), chance.randint(1, 20)

    def bound(split: tuple[int, ...]) -> float:
        return least_seconds(
            Pipeline(
                num_micro_batches=micro_batches,
                forward_seconds=tuple(
                    line.at(number) for line, number in zip(costs, split, strict=True)
                ),
                backward_seconds=(0.0,) * num_stages,
                boundaries=tuple(Boundary(each) for each in transfers),
                gradient_seconds=(gradient.at(split[0]),) + (0.0,) * (num_stages - 1),
            )
        )

    found = soonest_layers(
        num_layers,
        costs,
        most,
        num_micro_batches=micro_batches,
        transfer_seconds=transfers,
        first_gradient=gradient,
    )
    splits = [
        split
        for split in product(*[range(1, each + 1) for each in most])
        if sum(split) == num_layers
    ]
    if not splits:
        assert found is None
        return
    assert found in splits
    assert bound(found) == pytest.approx(min(map(bound, splits)))


def test_equal_stages_share_evenly_and_early_ones_get_less() -> None:
    """Early stages keep more activations, so what does not divide goes to late ones."""
    assert min_max_layers(10, [Line(1, 0)] * 4, [9] * 4) == (2, 2, 3, 3)


def test_more_stages_than_layers_do_not_fit() -> None:
    """Every stage needs a layer."""
    three = [Line(1, 0)] * 3
    assert min_max_layers(2, three, [9] * 3) is None
    ends = soonest_layers(
        2,
        three,
        [9] * 3,
        num_micro_batches=4,
        transfer_seconds=[0.0] * 2,
        first_gradient=Line(0, 0),
    )
    assert ends is None


def _weight(costs: list[Line], split: tuple[int, ...]) -> tuple[float, float]:
    taken = [line.at(number) for line, number in zip(costs, split, strict=True)]
    return max(taken), sum(taken)
