import pytest
from pydantic import ValidationError

from serving.tiny.recipe import Recipe, Schedule

RECIPE = Recipe().model_dump()


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


@pytest.mark.parametrize(
    ("draft", "layers", "words"),
    [
        ({"num_heads": 2}, (0, 5, 11), r"draft\.num_heads is 2; give it the target's 4"),
        ({"num_key_value_heads": 1}, (0, 5, 11), r"draft\.num_key_value_heads is 1"),
        ({"head_size": 32}, (0, 5, 11), r"draft\.head_size is 32; give it the target's 64"),
        ({"hidden_size": 193}, (0, 5, 11), r"hidden_size is 193; give it at most the target's 192"),
        ({"intermediate_size": 513}, (0, 5, 11), r"draft\.intermediate_size is 513"),
        ({"tied_embeddings": True}, (0, 5, 11), "untie it"),
        ({}, (0, 11), "names 2 layers; name one for each of the draft's 3"),
        ({}, (0, 5, 12), "names layer 12; the target's are 0 to 11"),
        ({}, (-1, 5, 11), "names layer -1"),
    ],
    ids=str,
)
def test_draft_that_cannot_start_from_the_target_is_refused(
    draft: dict[str, object], layers: tuple[int, ...], words: str
) -> None:
    """The message names the field, both values and what to do."""
    fields = RECIPE | {"draft": RECIPE["draft"] | draft, "draft_start_layers": layers}
    with pytest.raises(ValidationError, match=words):
        Recipe.model_validate(fields)


def test_draft_may_be_as_large_as_the_target() -> None:
    """Equal sizes fit."""
    fields = {"hidden_size": 192, "intermediate_size": 512}
    Recipe.model_validate(RECIPE | {"draft": RECIPE["draft"] | fields})


def test_recipe_of_before_its_sample_had_a_size_used_four_batches() -> None:
    """A recipe stored without the field reads as what it was."""
    fields = {name: value for name, value in RECIPE.items() if name != "draft_start_batches"}
    assert Recipe.model_validate(fields).draft_start_batches == 4
