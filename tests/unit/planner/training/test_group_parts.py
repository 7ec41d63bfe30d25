"""The solver's parts: rooms, kinds, packing, exchanges and the bound, by hand-computed cases."""

import pytest
from random_training import random_batch
from training_fleets import fleet, island

from planner.training.group_exchange import exchanged
from planner.training.group_kinds import families_of, group_kinds
from planner.training.group_packing import Draft, Pool, fill, longest_within, pack
from planner.training.group_search import Packed
from planner.training.groups_bound import BatchBound
from planner.training.room import Floor, Room

SQUARE, LINEAR, FIXED = 1e-4, 0.01, 0.5
"""Of the toy costs on one device."""


def kind_of(some_fleet, degree, reach="node"):
    """Return the kind of a degree and reach."""
    kinds = group_kinds(some_fleet)
    return next(kind for kind in kinds if (kind.cost.degree, kind.reach) == (degree, reach))


def test_islands_alike_are_one_family_the_fastest_first():
    """Names and networks' kinds do not matter, speed and links do."""
    some = fleet(island("a"), island("b", relative_speed=2), island("c", nic="roce"))
    assert families_of(some.cluster) == ((1,), (0, 2))


def test_a_group_inside_a_node_leaves_the_least_behind():
    """After three of four devices, one goes beside them and two into the next node."""
    some = fleet(island(num_nodes=2), num_query_heads=12, num_key_value_heads=12)
    room = Room(Floor(some.cluster))
    taken = [room.take(kind_of(some, degree)) for degree in (3, 1, 2)]
    assert taken == [((0, 3),), ((3, 1),), ((4, 2),)]
    assert room.num_free == 2
    assert room.take(kind_of(some, 4)) is None


def test_a_group_over_islands_takes_the_slow_devices_first():
    """Fast devices stay free for groups of their own."""
    some = fleet(island(relative_speed=2), island("b", devices_per_node=3))
    room = Room(Floor(some.cluster))
    assert room.take(kind_of(some, 4, "islands")) == ((4, 3), (0, 1))


def test_the_longest_within_a_time_is_the_root_of_the_quadratic():
    """1e-4 s^2 + 0.01 s reaches 2 at 100 tokens."""
    assert longest_within(SQUARE, LINEAR, 2.0000001) == 100
    assert longest_within(SQUARE, LINEAR, 1.9999) == 99
    assert longest_within(0.0, LINEAR, 2.000001) == 200
    assert longest_within(SQUARE, LINEAR, -1.0) == 0


def test_packing_fills_a_group_longest_first_and_keeps_the_rest():
    """Of 100, 60, 50, 40 a device takes within 3.6 s 100 and 40: 50 more would end at 4.25 s."""
    one = fleet(island(devices_per_node=1))
    pool = Pool([40, 100, 50, 60])
    drafts = pack(pool, group_kinds(one), Room(Floor(one.cluster)), FIXED + 2 + 0.56 + 0.01)
    assert [draft.lengths for draft in drafts] == [[100, 40]]
    assert [pool.counts[i] for i in range(4)] == [0, 1, 1, 0]
    assert pool.lengths[pool.longest()] == 60


def test_filling_takes_memory_into_account():
    """A device of 1,000 tokens takes three of 300."""
    some = fleet()
    pool = Pool([300] * 5)
    draft = Draft(kind_of(some, 1), ((0, 1),), [])
    fill(draft, pool, pool.longest(), 1e9)
    assert draft.tokens == 900
    assert pool.counts == [2]
    assert draft.seconds() == pytest.approx(3 * (SQUARE * 300**2 + LINEAR * 300) + FIXED)


def test_an_exchange_levels_two_groups():
    """100 + 90 beside 20 + 10 become 100 alone and the rest: 2.06 s of work, not 3.71."""
    some = fleet(island(devices_per_node=2))
    kind = kind_of(some, 1)
    first = Draft(kind, ((0, 1),), [100, 90], 190, 100**2 + 90**2)
    second = Draft(kind, ((1, 1),), [20, 10], 30, 20**2 + 10**2)
    best = exchanged(Packed.of([[first, second]]))
    assert sorted(sorted(draft.lengths) for draft in best.micro_batches[0]) == [[10, 20, 90], [100]]


@pytest.mark.parametrize("seed", range(20))
def test_the_bound_rises_with_sequences(seed):
    """A batch takes at least what a part of it takes."""
    lengths, tiny = random_batch(seed, is_mixed=True)
    kinds = group_kinds(tiny)
    whole = BatchBound(lengths, tiny, kinds).seconds()
    for number in range(1, len(lengths)):
        assert BatchBound(lengths[:number], tiny, kinds).seconds() <= whole * (1 + 1e-12)


def test_the_bound_is_the_summed_work_of_the_cheapest_degrees():
    """Four short sequences on four devices: the fixed time and a quarter of their work."""
    some = fleet()
    bound = BatchBound([100] * 4, some, group_kinds(some))
    assert bound.seconds() == pytest.approx(FIXED + SQUARE * 100**2 + LINEAR * 100)
