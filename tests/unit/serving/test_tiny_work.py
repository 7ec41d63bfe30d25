import time
from pathlib import Path

import pytest
import torch

from planner.errors import DocumentError
from serving.tiny.recipe import Recipe
from serving.tiny.work import Role, WorkFolder

RECIPE = Recipe()
TEXT = "0" * 64
DEEPER = RECIPE.target.model_copy(update={"num_layers": 13})


def changed(**changes: object) -> Recipe:
    """Return the default recipe with top-level fields replaced."""
    return RECIPE.model_copy(update=changes)


def more_target_steps() -> Recipe:
    """Return the recipe with a longer target schedule."""
    longer = RECIPE.target_schedule.model_copy(
        update={"num_steps": 2 * RECIPE.target_schedule.num_steps}
    )
    return changed(target_schedule=longer)


@pytest.fixture
def work(tmp_path: Path) -> WorkFolder:
    """A work folder that follows the default recipe."""
    folder = WorkFolder(tmp_path / "deep" / "work")
    folder.claim(RECIPE, training_sha256=TEXT)
    return folder


def save_checkpoint(work: WorkFolder, role: Role, step: int) -> None:
    """Write a checkpoint that says only how far it is."""
    torch.save({"step": step}, work.checkpoint(role))


def test_steps_are_read_from_the_checkpoint(work: WorkFolder) -> None:
    """Without a checkpoint nothing is done; with one, its step is."""
    assert work.steps_done("target") == 0
    save_checkpoint(work, "target", 123)
    assert work.steps_done("target") == 123


def test_same_recipe_may_resume(work: WorkFolder) -> None:
    """Claiming a folder again with the same recipe and text is fine."""
    save_checkpoint(work, "target", 100)
    work.claim(RECIPE, training_sha256=TEXT)


@pytest.mark.parametrize(
    ("recipe", "text", "named"),
    [
        (changed(seed=1), TEXT, "seed 20, not 1"),
        (changed(target=DEEPER), TEXT, r"target\.num_layers 12, not 13"),
        (RECIPE, "1" * 64, "training text 0+, not 1+"),
    ],
)
def test_another_recipe_is_refused(work: WorkFolder, recipe: Recipe, text: str, named: str) -> None:
    """The refusal is one line that names the field, both values and what to do."""
    save_checkpoint(work, "target", 100)
    with pytest.raises(DocumentError, match=named) as caught:
        work.claim(recipe, training_sha256=text)
    assert "\n" not in str(caught.value)
    assert "--work" in str(caught.value)


def test_a_recipe_may_change_while_nothing_depends_on_it(work: WorkFolder) -> None:
    """The draft's part of the recipe is free until a draft exists."""
    save_checkpoint(work, "target", RECIPE.target_schedule.num_steps)
    other = changed(draft=RECIPE.draft.model_copy(update={"intermediate_size": 64}))
    work.claim(other, training_sha256=TEXT)
    save_checkpoint(work, "draft", 10)
    with pytest.raises(DocumentError, match=r"draft\.pt.*intermediate_size"):
        work.claim(RECIPE, training_sha256=TEXT)


def test_number_of_steps_may_change_before_the_decay_only(work: WorkFolder) -> None:
    """More or fewer steps are fine until the rate has begun to fall under either number."""
    save_checkpoint(work, "target", RECIPE.target_schedule.decay_start)
    work.claim(more_target_steps(), training_sha256=TEXT)
    work.claim(RECIPE, training_sha256=TEXT)
    work.claim(more_target_steps(), training_sha256=TEXT)
    save_checkpoint(work, "target", 2 * RECIPE.target_schedule.num_steps - 1)
    with pytest.raises(DocumentError, match=r"target_schedule\.num_steps \d+, not \d+"):
        work.claim(RECIPE, training_sha256=TEXT)


def test_a_draft_does_not_outlive_its_target(work: WorkFolder) -> None:
    """Training the target on makes a draft that was taught by it stale, which is refused."""
    save_checkpoint(work, "target", 10)
    save_checkpoint(work, "draft", 10)
    with pytest.raises(DocumentError, match=r"draft\.pt.*target_schedule\.num_steps"):
        work.claim(more_target_steps(), training_sha256=TEXT)


def test_a_checkpoint_of_unknown_origin_is_refused(tmp_path: Path) -> None:
    """Without its recipe a checkpoint is not continued."""
    work = WorkFolder(tmp_path)
    save_checkpoint(work, "target", 10)
    with pytest.raises(DocumentError, match=r"recipe\.json"):
        work.claim(RECIPE, training_sha256=TEXT)


def test_training_time_adds_up_over_interruptions(work: WorkFolder) -> None:
    """Time spent counts although the training ended in an exception."""
    with pytest.raises(KeyboardInterrupt), work.timed("target"):
        raise KeyboardInterrupt
    first = work.times().target.seconds
    with work.timed("target"):
        pass
    assert work.times().target.seconds >= first >= 0
    assert work.times().draft.seconds == 0
    assert work.times().target.num_threads == torch.get_num_threads()


def test_training_time_survives_a_killed_process(
    work: WorkFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time so far is on disk while training still runs."""
    monkeypatch.setattr("serving.tiny.work.WRITE_SECONDS", 0.0)
    with work.timed("draft") as tick:
        time.sleep(0.002)
        tick()
        assert work.times().draft.seconds > 0
