"""`motley serve train-draft` on a nano model: road, resumption, refusals."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import motley
from planner.errors import DocumentError
from planner.model_folder import weights_sha256
from serving.draft_training import trainer
from serving.draft_training.data import read_split
from serving.draft_training.frozen import FrozenTarget
from serving.draft_training.recipe import HeadRecipe
from serving.draft_training.training import HeadCard, train_draft
from serving.engine.head_folder import load_head
from serving.errors import ModelError

RECIPE = HeadRecipe(
    sequence_tokens=32,
    batch_sequences=2,
    num_steps=6,
    warmup_steps=2,
    rate=1e-2,
    token_weight=1.0,
    num_depths=2,
)
TEMPLATE = "{% for m in messages %}<{{ m['role'][0] }}>{{ m['content'] }}{% endfor %}"


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of a few thousand weights, with a tokenizer of single bytes."""
    folder = tmp_path_factory.mktemp("nano")
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def target(model_folder: Path) -> FrozenTarget:
    """The nano model, frozen."""
    return FrozenTarget.load(str(model_folder), device="cpu")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Forty small texts in JSON lines."""
    path = tmp_path / "texts.jsonl"
    lines = [json.dumps({"text": f"line {number} of many, " * 4}) for number in range(40)]
    path.write_text("\n".join(lines))
    return path


def train(target: FrozenTarget, data: Path, folder: Path, recipe: HeadRecipe = RECIPE) -> HeadCard:
    """Train below `folder`."""
    return train_draft(
        target,
        [data],
        recipe,
        work=folder / "work",
        output=folder / "head",
        cache_bytes=1 << 20,
        report=lambda *_: None,
    )


def test_training_writes_a_head_that_loads(target, model_folder, data, tmp_path):
    """The folder has shape, weights and card; the card says how many guesses were accepted."""
    card = train(target, data, tmp_path)
    digest = weights_sha256(model_folder)
    head = load_head(tmp_path / "head", target_sha256=digest)
    assert head.config.target_sha256 == card.target_sha256 == digest
    assert head.config.num_layers == 1
    assert len(card.acceptance_fractions) == 5
    assert card.num_judged[0] > 0
    stored = HeadCard.model_validate_json((tmp_path / "head" / "card.json").read_text())
    assert stored == card


def test_training_learns(target, data, tmp_path):
    """Loss falls: the mean of the last steps is below the mean of the first."""
    losses: list[float] = []
    train_draft(
        target,
        [data],
        RECIPE.model_copy(update={"num_steps": 30}),
        work=tmp_path / "work",
        output=tmp_path / "head",
        cache_bytes=1 << 20,
        report=lambda _stage, _done, _total, loss=None: losses.append(loss) if loss else None,
    )
    assert sum(losses[-5:]) < sum(losses[:5])


def test_a_killed_run_goes_on_to_the_same_weights(target, data, tmp_path, monkeypatch):
    """Killed in the middle and run again, training ends in the very weights of one run."""
    train(target, data, tmp_path / "whole")
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", -1.0)

    def killed(*arguments: object) -> None:
        if arguments[0] == "head" and arguments[1] == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_draft(
            target,
            [data],
            RECIPE,
            work=tmp_path / "broken" / "work",
            output=tmp_path / "broken" / "head",
            cache_bytes=1 << 20,
            report=killed,
        )
    assert not (tmp_path / "broken" / "head").exists()
    assert not list((tmp_path / "broken" / "work").glob("*.partial"))
    train(target, data, tmp_path / "broken")
    whole = load_file(tmp_path / "whole" / "head" / "model.safetensors")
    resumed = load_file(tmp_path / "broken" / "head" / "model.safetensors")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_feature_cache_is_bounded_and_says_so(target, data, tmp_path, caplog):
    """Text beyond the room for features is left out, with its count in the log."""
    card = train_draft(
        target,
        [data],
        RECIPE,
        work=tmp_path / "work",
        output=tmp_path / "head",
        cache_bytes=4000,
        report=lambda *_: None,
    )
    assert card.num_cached_tokens * (2 * 16 + 5) <= 4000
    assert "num_left_out" in caplog.text


def test_work_of_another_recipe_or_text_is_refused(target, data, tmp_path):
    """A work folder goes on with what it was made from, or not at all."""
    train(target, data, tmp_path)
    with pytest.raises(DocumentError, match=r"was trained with rate 0\.01, not 0\.02"):
        train(target, data, tmp_path, RECIPE.model_copy(update={"rate": 0.02}))
    data.write_text(json.dumps({"text": "something else entirely " * 40}))
    with pytest.raises(DocumentError, match="another target or text"):
        train(target, data, tmp_path)


def test_a_head_for_another_target_is_refused(target, data, tmp_path):
    """The digest of the target's weights must be the one trained for."""
    train(target, data, tmp_path)
    with pytest.raises(ModelError, match="was trained for a target with weights"):
        load_head(tmp_path / "head", target_sha256="0" * 64)


def test_a_head_that_is_not_whole_is_refused(target, data, tmp_path):
    """A missing tensor, or a folder without a head, is named in one line."""
    train(target, data, tmp_path)
    path = tmp_path / "head" / "model.safetensors"
    tensors = load_file(path)
    del tensors["fusion.gate.weight"]
    save_file(tensors, path)
    with pytest.raises(ModelError, match=r"fusion\.gate\.weight is missing"):
        load_head(tmp_path / "head", target_sha256=None)
    with pytest.raises(ModelError, match="name the folder of a head"):
        load_head(tmp_path, target_sha256=None)


def test_a_folder_with_other_files_is_not_replaced(target, data, tmp_path):
    """Training starts only if its result can be written."""
    (tmp_path / "head").mkdir()
    (tmp_path / "head" / "thesis.txt").write_text("keep me")
    with pytest.raises(ModelError, match=r"also holds 'thesis\.txt'"):
        train(target, data, tmp_path)


def test_only_what_the_assistant_says_is_learnt(target, tmp_path):
    """In chats of either form the mask covers the answers, and nothing else."""
    path = tmp_path / "chats.jsonl"
    turns = [{"from": "human", "value": "why"}, {"from": "gpt", "value": "so"}]
    messages = [{"role": "user", "content": "how"}, {"role": "assistant", "content": "thus"}]
    path.write_text(
        json.dumps({"conversations": turns}) + "\n" + json.dumps({"messages": messages})
    )
    split = read_split([path], target.tokenizer, sequence_tokens=32)
    said = {
        target.tokenizer.decode(sequence.ids[sequence.mask == 1])
        for sequence in (*split.training, *split.held_out)
    }
    assert said == {"<a>so", "<a>thus"}


def test_the_command_trains_and_prints_acceptance(model_folder, data, tmp_path, capsys):
    """From the command line to the folder, with five lines of acceptance."""
    recipe = tmp_path / "recipe.json"
    recipe.write_text(RECIPE.model_dump_json())
    words = [
        "serve",
        "train-draft",
        str(model_folder),
        "--data",
        str(data),
        "--recipe",
        str(recipe),
    ]
    words += ["--output", str(tmp_path / "head"), "--work", str(tmp_path / "work"), "--steps", "3"]
    assert motley.main(words) == 0
    printed = capsys.readouterr().out
    assert [f"depth {depth}:" in printed for depth in range(1, 6)] == [True] * 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--data": "nowhere.jsonl"}, "nowhere.jsonl: no such file"),
        ({"--cache-size": "lots"}, "is no size"),
        ({"--recipe": "nowhere.yaml"}, "no such file"),
        ({"--steps": "0"}, "0 is not in the range"),
        ({"model": "./nowhere"}, "no such model folder"),
        ({"--data": "empty.jsonl"}, "too little text"),
        ({"--data": "broken.jsonl"}, "line 1 cannot be used"),
    ],
)
def test_bad_input_is_one_line_and_code_2(
    change, words, model_folder, data, tmp_path, monkeypatch, capsys
):
    """What is wrong, its value, what to do; no traceback."""
    monkeypatch.chdir(tmp_path)
    Path("empty.jsonl").write_text("")
    Path("broken.jsonl").write_text("{no json}\n")
    options = {"--data": str(data), "--output": "head", "--work": "work"} | change
    model = options.pop("model", str(model_folder))
    flat = [word for pair in options.items() for word in pair]
    assert motley.main(["serve", "train-draft", model, *flat]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1
    assert words in lines[0]
    assert not Path("head").exists()
