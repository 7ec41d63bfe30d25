"""The whole road of the tiny family's trainer, on a nano recipe and a few files."""

import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from planner.documents import read_document
from planner.errors import DocumentError
from planner.model_folder import weights_sha256
from serving.draft_training.recipe import HeadRecipe
from serving.engine.head_folder import load_head
from serving.tiny import head_measure
from serving.tiny.card import FamilyCard
from serving.tiny.cli import default_work_folder
from serving.tiny.corpus import Corpus, SourceFile, split
from serving.tiny.costs import StepCosts
from serving.tiny.family import Stage, make_family
from serving.tiny.head_card import TinyHeadCard, render_head_readme
from serving.tiny.measure import DRAFTED, measure_step_costs
from serving.tiny.readme import render_readme
from serving.tiny.recipe import ModelShape, Recipe, Schedule
from serving.tiny.work import WorkFolder

SCHEDULE = Schedule(num_steps=4, tokens_per_step=64, sequence_tokens=16, warmup_steps=2)


def nano_shape(num_layers: int) -> ModelShape:
    """Return the shape of a model of a few thousand weights."""
    return ModelShape(
        num_layers=num_layers,
        hidden_size=16,
        intermediate_size=16,
        num_heads=2,
        num_key_value_heads=1,
        head_size=8,
    )


RECIPE = Recipe(
    vocabulary_size=300,
    context_tokens=32,
    one_chat_in=1,
    target=nano_shape(2),
    draft=nano_shape(1).model_copy(update={"tied_embeddings": False}),
    target_schedule=SCHEDULE,
    draft_schedule=SCHEDULE,
    draft_start_layers=(1,),
)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    """Sixty small files of made-up Python, three of them held out."""
    words = random.Random(3)
    files = [
        SourceFile(
            f"module{number}.py",
            f'def compute_{number}(value):\n    """Return value {number}."""\n'
            + "".join(f"    value += {words.randrange(10**6)}\n" for _ in range(40))
            + "    return value\n",
        )
        for number in range(60, 120)
    ]
    return split(files)


def measure(target: Path, draft: Path) -> StepCosts:
    """Pretend to time the models, which must be there."""
    assert (target / "model.safetensors").exists()
    assert (draft / "model.safetensors").exists()
    return StepCosts(
        target_seconds_by_rows={1: 0.01, 4: 0.012},
        draft_seconds_by_draft_tokens={3: 0.001},
        draft_fraction_range_by_draft_tokens={3: (0.09, 0.11)},
        hardware="pretence",
    )


def make(folder: Path, corpus: Corpus, *, stage: Stage = Stage.ALL, recipe: Recipe = RECIPE) -> int:
    """Make a nano family below `folder` and return how many training steps it took."""
    steps: list[tuple[str, int]] = []
    make_family(
        recipe,
        corpus=corpus,
        work=WorkFolder(folder / "work"),
        output=folder / "family",
        stage=stage,
        progress=lambda role, done, _total, _loss: steps.append((role, done)),
        measure=measure,
    )
    return len(steps)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, corpus: Corpus) -> Path:
    """A folder with a finished nano family and its work folder."""
    folder = tmp_path_factory.mktemp("made")
    assert make(folder, corpus) == 8
    return folder


def test_family_loads_with_plain_transformers(made: Path) -> None:
    """Both folders load by the library's own classes, with one tokenizer and a chat template."""
    vocabularies = []
    for role in ("target", "draft"):
        model = AutoModelForCausalLM.from_pretrained(made / "family" / role)
        tokenizer = AutoTokenizer.from_pretrained(made / "family" / role)
        assert next(model.parameters()).dtype == torch.bfloat16
        assert model.generation_config.eos_token_id == [tokenizer.eos_token_id, 0]
        assert tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)
        vocabularies.append(tokenizer.get_vocab())
    assert vocabularies[0] == vocabularies[1]


def test_card_lists_text_and_files(made: Path, corpus: Corpus) -> None:
    """The card names every file trained on, held out and shipped, with hashes and times."""
    card = read_document(made / "family" / "card.json", FamilyCard)
    assert [file.path for file in card.training_files] == [file.path for file in corpus.training]
    assert [file.sha256 for file in card.held_out_files] == [
        file.digest for file in corpus.held_out
    ]
    on_disk = {
        path.relative_to(made / "family").as_posix()
        for path in (made / "family").rglob("*")
        if path.is_file()
    }
    assert {file.path for file in card.shipped_files} == on_disk - {"card.json", "README.md"}
    assert card.target.num_training_tokens == 4 * 64
    assert card.target.training.seconds > 0


def test_readme_states_the_cards_figures(made: Path) -> None:
    """Loss, agreement, draft cost and the way to rebuild stand in the README; no path of ours does."""
    card = read_document(made / "family" / "card.json", FamilyCard)
    text = (made / "family" / "README.md").read_text()
    assert f"| target | {card.target_nats_per_token:.3f} |" in text
    assert f"**{card.agreement_fraction:.1%}**" in text
    assert (
        "The target is trained from nothing; the draft starts as 1 layer of the target (1)" in text
    )
    assert "| 3 | 0.100 | 0.090 to 0.110 | 1.20 |" in text
    assert "motley serve train-tiny --output FOLDER --steps 4 --draft-steps 4\n" in text
    assert str(made) not in text + (made / "family" / "card.json").read_text()


@pytest.mark.parametrize(
    ("draft_seconds", "words"),
    [
        (1e-6, "In rounds of 3 drafted tokens one draft step costs **0.001** of a target step"),
        (1.0, "in greedy decoding: this draft does not pay."),
    ],
)
def test_readme_tells_whether_a_draft_pays(made: Path, draft_seconds: float, words: str) -> None:
    """A draft that costs nothing is stated with its cost, one that costs too much is said not to pay."""
    card = read_document(made / "family" / "card.json", FamilyCard)
    costs = StepCosts(
        target_seconds_by_rows={1: 0.001, 4: 0.001},
        draft_seconds_by_draft_tokens={3: draft_seconds},
        draft_fraction_range_by_draft_tokens={3: (0.001, 1000.0)},
        hardware="pretence",
    )
    assert words in render_readme(card.model_copy(update={"step_costs": costs}))


def test_repeating_trains_nothing_and_gives_the_same_weights(made: Path, corpus: Corpus) -> None:
    """A second call takes what the work folder holds and replaces the family by an equal one."""
    weights = made / "family" / "target" / "model.safetensors"
    before = weights.read_bytes()
    assert make(made, corpus) == 0
    assert weights.read_bytes() == before
    assert sorted(path.name for path in made.iterdir()) == ["family", "work"]


def test_stages_stand_on_one_another(tmp_path: Path, corpus: Corpus) -> None:
    """The draft waits for the target and the card for both; only the card writes the family."""
    with pytest.raises(DocumentError, match=r"target\.pt.*step 0 of 4; run --stage target first"):
        make(tmp_path, corpus, stage=Stage.DRAFT)
    assert make(tmp_path, corpus, stage=Stage.TARGET) == 4
    with pytest.raises(DocumentError, match=r"draft\.pt.*run --stage draft first"):
        make(tmp_path, corpus, stage=Stage.CARD)
    assert make(tmp_path, corpus, stage=Stage.DRAFT) == 4
    assert not (tmp_path / "family").exists()
    assert make(tmp_path, corpus, stage=Stage.CARD) == 0
    assert (tmp_path / "family" / "card.json").exists()


@pytest.mark.parametrize("num_steps", [1, 3])
def test_a_draft_may_train_for_fewer_steps_than_its_start_samples(
    tmp_path: Path, corpus: Corpus, num_steps: int
) -> None:
    """One step is enough to make a family: the start's sample does not follow the schedule."""
    schedule = SCHEDULE.model_copy(update={"num_steps": num_steps})
    recipe = RECIPE.model_copy(update={"draft_schedule": schedule})
    assert make(tmp_path, corpus, recipe=recipe) == 4 + num_steps


def test_foreign_files_are_not_replaced(tmp_path: Path, corpus: Corpus) -> None:
    """An output folder with anything else in it is refused before any training."""
    (tmp_path / "family").mkdir()
    (tmp_path / "family" / "thesis.txt").touch()
    with pytest.raises(DocumentError, match=r"'thesis\.txt'"):
        make(tmp_path, corpus)
    assert not (tmp_path / "work").exists()


def test_step_costs_are_measured_in_the_engine(made: Path) -> None:
    """A real measurement has a time for the draft's steps and the target's of every round."""
    costs = measure_step_costs(made / "family" / "target", made / "family" / "draft")
    assert costs.draft_tokens == sorted(set(DRAFTED) - {0})
    assert set(costs.target_seconds_by_rows) == {count + 1 for count in DRAFTED}


def test_work_folder_honours_the_users_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Checkpoints go below XDG_CACHE_HOME where it is set."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_work_folder() == tmp_path / "motley" / "train-tiny"


def test_head_stage_trains_a_head_for_the_family(
    tmp_path: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last stage writes a head that fits the target beside it, with card and README."""
    monkeypatch.setattr(head_measure, "TIMED_TEXTS", 1)
    head = HeadRecipe(num_steps=2, batch_sequences=1, sequence_tokens=64)
    recipe = RECIPE.model_copy(update={"context_tokens": 256, "head": head})
    family = tmp_path / "family"
    make_family(
        recipe,
        corpus=corpus,
        work=WorkFolder(tmp_path / "work"),
        output=family,
        stage=Stage.ALL,
        progress=lambda *_: None,
        measure=measure,
        report_head=lambda *_: None,
    )
    digest = weights_sha256(family / "target")
    assert load_head(family / "head", target_sha256=digest).config.feature_size == 16
    made_card = read_document(family / "head" / "card.json", TinyHeadCard)
    assert (family / "head" / "README.md").read_text() == render_head_readme(made_card)
    listed = {file.path for file in read_document(family / "card.json", FamilyCard).shipped_files}
    assert not any(path.startswith("head/") for path in listed)
