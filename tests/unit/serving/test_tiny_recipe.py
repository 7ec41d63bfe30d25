import pytest

from serving.tiny.recipe import Recipe, Schedule


def test_rate_rises_stays_and_falls() -> None:
    """The rate warms up linearly, stays full, and reaches zero one step past the end."""
    schedule = Schedule(num_steps=1000, warmup_steps=100, decay_fraction=0.3)
    assert schedule.rate_fraction(0) == pytest.approx(0.01)
    assert schedule.rate_fraction(99) == schedule.rate_fraction(699) == 1
    assert schedule.rate_fraction(schedule.decay_start) == 1
    assert schedule.rate_fraction(850) == pytest.approx(0.5)
    assert schedule.rate_fraction(1000) == 0


def test_longer_schedule_agrees_before_the_decay() -> None:
    """More steps change no rate before the shorter schedule begins to fall."""
    short, long = Schedule(num_steps=500), Schedule(num_steps=900)
    for step in range(short.decay_start):
        assert short.rate_fraction(step) == long.rate_fraction(step)


def test_recipe_survives_json() -> None:
    """The recipe stored beside checkpoints reads back equal."""
    recipe = Recipe()
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_draft_fits_the_target() -> None:
    """The draft starts from distinct layers of the target, with its heads and at most its sizes."""
    recipe = Recipe()
    assert len(set(recipe.draft_start_layers)) == recipe.draft.num_layers
    assert max(recipe.draft_start_layers) < recipe.target.num_layers
    assert recipe.draft.hidden_size <= recipe.target.hidden_size
    assert recipe.draft.intermediate_size <= recipe.target.intermediate_size
    heads = ("num_heads", "num_key_value_heads", "head_size")
    assert all(getattr(recipe.draft, name) == getattr(recipe.target, name) for name in heads)
