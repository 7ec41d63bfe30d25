"""`motley finetune squeeze`: what plain PEFT makes of the folder, and one line for every mistake."""

import json

import numpy as np
import peft
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from toy_job import job_content, write_job
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

import motley
from finetune.adapters import Manifest, digest, read_adapter
from finetune.errors import AdapterFolderError
from finetune.rank_choice import by_energy, fixed_rank
from finetune.squeeze_folder import squeeze_folder

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
IDS = torch.arange(40).reshape(2, 20)
TARGETS = ["q_proj", "v_proj", "up_proj", "down_proj"]


def base(folder):
    """Return the toy model in float64, so that rounding does not hide anything."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()


def fill(model, *, seed=3):
    """Give every factor seeded values whose products have falling singular values."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".lora_" in name:
                drawn = torch.randn(parameter.shape, generator=generator) * 0.2
                falling = 0.6 ** torch.arange(min(parameter.shape))
                turned = falling if "lora_B" in name else falling[:, None]
                parameter.copy_(drawn * turned)
    return model


@pytest.fixture
def make_adapter(toy_model, tmp_path):
    """Write an adapter with PEFT alone; return its folder."""

    def make(*, dtype=torch.float32, **changes):
        words = {"r": 6, "lora_alpha": 9, "target_modules": TARGETS} | changes
        model = fill(get_peft_model(base(toy_model), LoraConfig(task_type="CAUSAL_LM", **words)))
        model.save_pretrained(tmp_path / "adapter")
        file = tmp_path / "adapter" / "adapter_model.safetensors"
        tensors = {name: tensor.to(dtype) for name, tensor in load_file(file).items()}
        save_file(tensors, file, metadata={"format": "pt"})
        return tmp_path / "adapter"

    return make


def logits(model_folder, adapter):
    """Return what plain PEFT says with an adapter's folder."""
    model = PeftModel.from_pretrained(base(model_folder), adapter).double().eval()
    with torch.inference_mode():
        return model(input_ids=IDS).logits


def truncated_logits(model_folder, adapter, ranks):
    """Return what the base model says with numpy's truncated updates added to its weights."""
    model = PeftModel.from_pretrained(base(model_folder), adapter).double()
    model = model.merge_and_unload()
    plain, merged = base(model_folder), dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in plain.named_parameters():
            rank = next((r for end, r in ranks.items() if name.endswith(f"{end}.weight")), None)
            if rank is not None:
                update = (merged[name] - weight).numpy()
                left, values, right = np.linalg.svd(update, full_matrices=False)
                weight += torch.from_numpy((left[:, :rank] * values[:rank]) @ right[:rank])
    with torch.inference_mode():
        return plain.eval()(input_ids=IDS).logits


def assert_near(given, wanted):
    """Compare logits to a millionth of their norm."""
    assert float((given - wanted).norm()) < 1e-6 * float(wanted.norm())


def config_of(folder):
    """Return the folder's configuration."""
    return json.loads((folder / "adapter_config.json").read_text())


SOURCES = {
    "plain": {},
    "stabilised": {"use_rslora": True},
    "patterns": {"rank_pattern": {"q_proj": 3}, "alpha_pattern": {"layers.1.mlp.up_proj": 2}},
    "stabilised patterns": {"use_rslora": True, "rank_pattern": {"q_proj": 3}},
}


@pytest.mark.parametrize("kind", SOURCES)
def test_a_fixed_rank_is_the_truncated_update(make_adapter, toy_model, tmp_path, kind):
    """Plain PEFT with the squeezed folder says what numpy's truncated updates say."""
    source = make_adapter(**SOURCES[kind])
    squeeze_folder(source, tmp_path / "small", choose=fixed_rank(2))
    given = logits(toy_model, tmp_path / "small")
    assert_near(given, truncated_logits(toy_model, source, dict.fromkeys(TARGETS, 2)))
    config = config_of(tmp_path / "small")
    assert (config["r"], config["use_rslora"], config["rank_pattern"]) == (2, False, {})
    assert not torch.allclose(given, logits(toy_model, source), atol=1e-4)


def test_ranks_by_energy_load_as_patterns_and_flat(make_adapter, toy_model, tmp_path):
    """Different ranks and alphas, and one rank and one alpha, give the same logits."""
    source = make_adapter(**SOURCES["patterns"])
    mixed, flat = tmp_path / "mixed", tmp_path / "flat"
    modules = squeeze_folder(source, mixed, choose=by_energy(0.9))
    squeeze_folder(source, flat, choose=by_energy(0.9), is_flat=True)
    ranks = {module.name.partition("model.model.")[2]: module.rank_after for module in modules}
    assert len(set(ranks.values())) > 1
    wanted = truncated_logits(toy_model, source, ranks)
    assert_near(logits(toy_model, mixed), wanted)
    assert_near(logits(toy_model, flat), wanted)
    assert config_of(mixed)["rank_pattern"]
    assert config_of(mixed)["alpha_pattern"]
    assert config_of(flat)["rank_pattern"] == config_of(flat)["alpha_pattern"] == {}
    for module in modules:
        assert module.error**2 <= 0.1001 * module.norm**2


@pytest.mark.parametrize("is_flat", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_file_stays_within_its_bytes(make_adapter, toy_model, tmp_path, dtype, is_flat):
    """The whole file counts, header included, in the type the source had; most of it is used."""
    source = make_adapter(dtype=dtype)
    most_bytes = (source / "adapter_model.safetensors").stat().st_size * 2 // 3
    squeeze_folder(source, tmp_path / "small", choose=most_bytes, is_flat=is_flat)
    file = tmp_path / "small" / "adapter_model.safetensors"
    assert 0.7 * most_bytes < file.stat().st_size <= most_bytes
    assert {tensor.dtype for tensor in load_file(file).values()} == {dtype}
    assert logits(toy_model, tmp_path / "small").isfinite().all()


def test_what_is_no_factor_keeps_its_type(make_adapter, tmp_path):
    """A head in float64, and counts, come out bit for bit, whatever the factors' type."""
    source = make_adapter(dtype=torch.bfloat16)
    file = source / "adapter_model.safetensors"
    others = {
        "base_model.model.score.weight": torch.full((3, 2), 1 / 3, dtype=torch.float64),
        "base_model.model.score.steps": torch.tensor([2**40 + 1]),
    }
    save_file(load_file(file) | others, file, metadata={"format": "pt"})
    squeeze_folder(source, tmp_path / "small", choose=fixed_rank(2))
    written = load_file(tmp_path / "small" / "adapter_model.safetensors")
    for name, tensor in others.items():
        assert written[name].dtype == tensor.dtype
        assert torch.equal(written[name], tensor)


def test_layers_stored_the_other_way_round(tmp_path):
    """GPT-2's Conv1D: the squeezed folder gives the truncated update there too."""
    config = GPT2Config(vocab_size=64, n_positions=32, n_embd=16, n_layer=2, n_head=2)
    torch.manual_seed(1)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    words = LoraConfig(r=5, lora_alpha=5, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True)
    fill(get_peft_model(base(tmp_path / "gpt2"), words)).save_pretrained(tmp_path / "adapter")
    squeeze_folder(tmp_path / "adapter", tmp_path / "small", choose=fixed_rank(2))
    wanted = truncated_logits(tmp_path / "gpt2", tmp_path / "adapter", {"c_attn": 2, "c_fc": 2})
    assert_near(logits(tmp_path / "gpt2", tmp_path / "small"), wanted)


def test_a_run_is_squeezed_from_the_front_door(toy_model, texts, tmp_path, capsys):
    """The table says what was kept; the manifest says which adapter it was cut from."""
    job = write_job(
        tmp_path / "job.yaml",
        job_content(toy_model, texts, output=tmp_path / "run", rounds=1, rank=4),
    )
    assert motley.main(["finetune", "run", str(job)]) == 0
    source = tmp_path / "run" / "adapter"
    assert motley.main(["finetune", "squeeze", str(source), "--rank", "2"]) == 0
    printed = capsys.readouterr().out
    for word in ("q_proj", "kept energy", "4 → 2", "all", "adapter-squeezed"):
        assert word in printed
    before, after = read_adapter(source), read_adapter(tmp_path / "run" / "adapter-squeezed")
    assert (after.rank, after.alpha) == (2, before.alpha / 2)
    assert after.squeezed_from == before.adapter_sha256
    weights = (tmp_path / "run" / "adapter-squeezed" / "adapter_model.safetensors").read_bytes()
    assert after.adapter_sha256 == digest(weights)
    assert after.clients == ()  # the losses were the source's, and nobody judged this one
    changed = {"rank", "alpha", "adapter_sha256", "squeezed_from", "clients"}
    for field in Manifest.model_fields.keys() - changed:
        assert getattr(before, field) == getattr(after, field)


def test_a_folder_without_manifest_gets_none(make_adapter, tmp_path, caplog):
    """PEFT's own folders can be squeezed; the log says that nothing vouches for them."""
    squeeze_folder(make_adapter(), tmp_path / "small", choose=fixed_rank(2))
    assert "adapter has no manifest" in caplog.text
    names = {path.name for path in (tmp_path / "small").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors"}


def fails(capsys, *words):
    """Run the command, check that it fails in one line, and return the line."""
    assert motley.main(["finetune", "squeeze", *map(str, words)]) == 2
    error = capsys.readouterr().err
    assert "Traceback" not in error
    (line,) = [line for line in error.splitlines() if line.startswith("motley: error: ")]
    return line


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "give exactly one"),
        (["--rank", 2, "--energy", 0.9], "give exactly one"),
        (["--rank", 0], "--rank 0 is no rank"),
        (["--energy", 1.5], "--energy 1.5 is no share"),
        (["--energy", "nan"], "--energy nan is no share"),
        (["--bytes", "much"], "--bytes 'much' is no size"),
        (["--bytes", "100"], "100 bytes do not pay for rank 1 in all 8 modules"),
        (["--rank", 2, "--output", "."], "exists already"),
        (["--rank", 2, "--output", "no/such/place"], "lies in no folder"),
    ],
)
def test_wrong_words_are_one_line(make_adapter, tmp_path, capsys, words, says):
    """Exit code 2, one line that names the word, nothing written."""
    assert says in fails(capsys, make_adapter(), *words)
    assert {path.name for path in tmp_path.iterdir()} == {"adapter"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"peft_type": "IA3"}, "peft_type"),
        ({"r": 0}, "r: "),
        ({"r": 5}, "not rank 5 in both"),
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern"),
        ({"rank_pattern": {"q_(": 2}}, "is no pattern"),
        ({"lora_alpha": None}, "lora_alpha"),
    ],
)
def test_folders_that_mean_something_else_are_refused(
    make_adapter, tmp_path, capsys, changes, says
):
    """DoRA, PiSSA and their like would come out wrong, so the field is named instead."""
    folder = make_adapter()
    content = config_of(folder) | changes
    (folder / "adapter_config.json").write_text(json.dumps(content))
    assert says in fails(capsys, folder, "--rank", 2)
    assert not (tmp_path / "adapter-squeezed").exists()


def test_broken_folders_are_named(make_adapter, tmp_path, capsys):
    """Missing, torn and non-finite weights each say so."""
    assert "no such folder" in fails(capsys, tmp_path / "nothing", "--rank", 2)
    folder = make_adapter()
    file = folder / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(iter(tensors))
    save_file(tensors | {name: torch.full_like(tensors[name], torch.nan)}, file)
    assert f"{name} holds NaN or infinity" in fails(capsys, folder, "--rank", 2)
    file.write_bytes(b"torn")
    assert "cannot be read" in fails(capsys, folder, "--rank", 2)
    file.unlink()
    assert "holds no adapter_model.safetensors" in fails(capsys, folder, "--rank", 2)


def test_modules_that_patterns_cannot_tell_apart_are_refused(tmp_path):
    """Where one module's name ends another's, differing ranks need the flat form, which works."""

    class Inner(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.q = torch.nn.Linear(6, 6)

    class Outer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.q = torch.nn.Linear(6, 6)
            self.deep = Inner()

    model = get_peft_model(Outer(), LoraConfig(r=3, lora_alpha=3, target_modules=["q"]))
    fill(model).save_pretrained(tmp_path / "adapter")
    words = {"choose": lambda spectra: dict(zip(sorted(spectra), (3, 1), strict=True))}
    with pytest.raises(AdapterFolderError, match="ends like another module's name"):
        squeeze_folder(tmp_path / "adapter", tmp_path / "small", **words)
    squeeze_folder(tmp_path / "adapter", tmp_path / "small", is_flat=True, **words)
    assert peft.PeftConfig.from_pretrained(tmp_path / "small").r == 3
