"""Who takes part in a round."""

from finetune.scheduling.selection import AllClients, SpeedTiers, UniformSample, select

NAMES = [f"c{i}" for i in range(12)]
SPEEDS = {name: 1.0 + i // 4 for i, name in enumerate(NAMES)}


def chosen(selection, draw=0, *, idle=NAMES, speeds=SPEEDS, seed=3):
    """Return one draw."""
    return select(selection, idle, speeds, seed=seed, draw=draw)


def test_all_are_chosen_in_their_order():
    """Nothing is drawn."""
    assert chosen(AllClients()) == NAMES


def test_a_uniform_sample_holds_each_client_at_most_once_and_reaches_all():
    """Five of twelve each time; over many draws everybody has had a turn."""
    draws = [chosen(UniformSample(num_clients=5), draw) for draw in range(40)]
    assert all(len(set(names)) == len(names) == 5 for names in draws)
    assert {name for names in draws for name in names} == set(NAMES)


def test_a_sample_larger_than_the_idle_is_all_of_them():
    """Two are idle, five are asked for."""
    assert chosen(UniformSample(num_clients=5), idle=NAMES[:2]) == NAMES[:2]


def test_nobody_idle_gives_nobody():
    """An empty pool is no failure."""
    assert chosen(UniformSample(num_clients=5), idle=[]) == []


def test_seed_and_draw_decide():
    """The same draw of the same seed is the same; other draws and seeds differ."""
    selection = UniformSample(num_clients=6)
    assert chosen(selection, 7) == chosen(selection, 7)
    assert len({tuple(chosen(selection, draw)) for draw in range(10)}) > 5
    assert len({tuple(chosen(selection, seed=seed)) for seed in range(10)}) > 5


def test_a_speed_tier_holds_clients_of_one_speed():
    """Three tiers of four; every draw stays within one, and all tiers have their turn."""
    selection = SpeedTiers(num_tiers=3, num_clients=3)
    draws = [chosen(selection, draw) for draw in range(30)]
    tiers = [{SPEEDS[name] for name in names} for names in draws]
    assert all(len(names) == 3 for names in draws)
    assert all(len(tier) == 1 for tier in tiers)
    assert {speed for tier in tiers for speed in tier} == {1, 2, 3}


def test_clients_of_unknown_speed_have_the_first_turns():
    """While two are unmeasured, only these are drawn."""
    known = dict.fromkeys(NAMES[2:], 1.0)
    selection = SpeedTiers(num_tiers=3, num_clients=4)
    assert chosen(selection, speeds=known) == NAMES[:2]
