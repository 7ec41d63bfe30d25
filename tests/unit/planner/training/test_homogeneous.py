"""Plans of one degree, as the published comparison packs them."""

from training_fleets import fleet, island

from planner.training.homogeneous import best_homogeneous, homogeneous_plan, static_degree


def test_groups_are_filled_to_nine_tenths_best_fit_first():
    """Four devices of 1,000 tokens: 900 a group; 100 joins the fuller of those that have room."""
    lengths = (800, 700, 600, 500, 400, 100)
    found = homogeneous_plan(lengths, fleet(), degree=1)
    # 800+100 | 700 | 600 | 500+400: one micro-batch, whose slowest group is the first.
    assert found.num_micro_batches == 1
    assert found.predicted_seconds == 1e-4 * (800**2 + 100**2) + 0.01 * 900 + 0.5


def test_empty_groups_take_the_first_sequence_of_the_latest_group_with_several():
    """Three short sequences would share a group; each gets its own."""
    found = homogeneous_plan((30, 20, 10), fleet(), degree=1)
    assert found.predicted_seconds == 1e-4 * 30**2 + 0.01 * 30 + 0.5


def test_a_degree_that_does_not_hold_the_longest_is_none():
    """1,500 tokens need two devices of 1,000."""
    assert homogeneous_plan((1500, 100), fleet(), degree=1) is None
    assert best_homogeneous((1500, 100), fleet()).degree in (2, 4)


def test_the_static_degree_holds_the_longest_admitted_at_nine_tenths():
    """2 x 900 tokens are the most of degree 2; 4 x 1,000 the most of all."""
    assert static_degree(fleet(), longest_tokens=1800) == 2
    assert static_degree(fleet(), longest_tokens=1801) == 4
    assert static_degree(fleet(), longest_tokens=4000) == 4
    assert static_degree(fleet(), longest_tokens=4001) is None


def test_unlike_devices_are_costed_where_the_groups_sit():
    """On a fast and a slow node the fast one takes the longest sequence."""
    found = homogeneous_plan((300, 100), fleet(island(), island("b", relative_speed=0.5)), degree=4)
    fast, slow = (
        fleet().group_cost(range(4)),
        fleet(island(relative_speed=0.5)).group_cost(range(4)),
    )
    assert found.predicted_seconds == max(fast.seconds((300,)), slow.seconds((100,)))
