import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from serving.tiny.recipe import ModelShape
from serving.tiny.shrink import principal_directions, start_draft

SHAPE = ModelShape(
    num_layers=3,
    hidden_size=16,
    intermediate_size=24,
    num_heads=2,
    num_key_value_heads=1,
    head_size=8,
)
SAMPLE = torch.arange(96).reshape(4, 24) * 7 % 40


def random_model(seed: int, **changes: object) -> LlamaForCausalLM:
    """Return a model over 40 tokens whose norms differ from one, with some of `SHAPE` changed."""
    torch.manual_seed(seed)
    shape = SHAPE.model_copy(update=changes)
    model = LlamaForCausalLM(shape.llama(vocabulary_size=40, context_tokens=32))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.mul_(5).add_(0.1 * torch.randn_like(parameter))
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    return model.eval()


def neurons(layer: LlamaDecoderLayer) -> tuple[Tensor, Tensor, Tensor]:
    """Return gate, up and down weights as views with a row for each neuron. Shape: (N, E) each."""
    mlp = layer.mlp
    return mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight.T


def layer_inputs(model: LlamaForCausalLM) -> Tensor:
    """Return what each layer takes in on the sample, seen by hooks. Shape: (rows, E)."""
    seen: list[Tensor] = []
    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten(0, 1)))
        for layer in model.model.layers
    ]
    with torch.inference_mode():
        model(input_ids=SAMPLE, use_cache=False)
    for hook in hooks:
        hook.remove()
    return torch.cat(seen)


def logits(model: LlamaForCausalLM) -> Tensor:
    """Return the logits on some tokens."""
    with torch.inference_mode():
        return model(input_ids=(SAMPLE + 1) % 40, use_cache=False).logits


def test_draft_with_everything_kept_is_the_target() -> None:
    """All layers, directions and neurons kept: the rotated, folded model has the target's logits."""
    target, draft = random_model(1), random_model(2, tied_embeddings=False)
    start_draft(draft, target, layers=(0, 1, 2), sample=[SAMPLE])
    torch.testing.assert_close(logits(draft), logits(target), rtol=1e-4, atol=1e-4)


def test_draft_keeps_what_matters() -> None:
    """Directions no token uses and neurons that do nothing can go without changing a logit.

    A neuron does nothing if one of its three weights is zero, however large the other two.
    """
    target = random_model(1)
    with torch.no_grad():
        target.model.embed_tokens.weight[:, 12:] = 0
        for layer in target.model.layers:
            layer.self_attn.o_proj.weight[12:] = 0
            layer.mlp.down_proj.weight[12:] = 0
            for weight_NE in neurons(layer):
                weight_NE[[4, 11, 19]] *= 10
            for weight_NE, idle in zip(neurons(layer), (4, 11, 19), strict=True):
                weight_NE[idle] = 0
    draft = random_model(2, hidden_size=12, intermediate_size=21, tied_embeddings=False)
    start_draft(draft, target, layers=(0, 1, 2), sample=[SAMPLE])
    torch.testing.assert_close(logits(draft), logits(target), rtol=1e-3, atol=1e-3)


def test_draft_takes_the_named_layers() -> None:
    """A draft of layers 0 and 2 equals the target with layer 1 taken out."""
    target = random_model(1)
    draft = random_model(2, num_layers=2, tied_embeddings=False)
    start_draft(draft, target, layers=(0, 2), sample=[SAMPLE])
    del target.model.layers[1]
    target.config.num_hidden_layers = 2
    for index, layer in enumerate(target.model.layers):
        layer.self_attn.layer_idx = index
    torch.testing.assert_close(logits(draft), logits(target), rtol=1e-4, atol=1e-4)


def test_principal_directions_are_orthonormal() -> None:
    """The basis keeps lengths."""
    basis_Ee = principal_directions(random_model(1), [SAMPLE], count=5)
    torch.testing.assert_close(basis_Ee.T @ basis_Ee, torch.eye(5))


def test_principal_directions_span_what_a_singular_value_decomposition_finds() -> None:
    """The span equals that of the first right singular vectors of all layers' inputs, unit rows."""
    model = random_model(1)
    rows = layer_inputs(model)
    assert rows.shape == (3 * SAMPLE.numel(), 16)
    unit_rows = rows / rows.norm(dim=-1, keepdim=True)
    right = torch.linalg.svd(unit_rows.double(), full_matrices=False).Vh[:5].T
    basis_Ee = principal_directions(model, [SAMPLE], count=5).double()
    torch.testing.assert_close(basis_Ee @ basis_Ee.T, right @ right.T, rtol=0, atol=1e-5)


def test_one_long_state_does_not_win_a_direction() -> None:
    """A token a thousand times as long as the others counts once, as it does behind a norm."""
    model = random_model(1)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 15] = 0
        model.model.embed_tokens.weight[7] = 1000 * torch.eye(16)[15]
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[15] = 0
            layer.mlp.down_proj.weight[15] = 0
    basis_Ee = principal_directions(model, [SAMPLE], count=5)
    assert float(basis_Ee[15].norm()) < 0.1


def test_principal_directions_do_not_depend_on_how_the_sample_is_cut() -> None:
    """Batches of one sequence, and of another length, add up to the same directions."""
    model = random_model(1)
    whole = principal_directions(model, [SAMPLE, SAMPLE[:, :5]], count=5)
    parts = principal_directions(model, [*SAMPLE.split(1), SAMPLE[:, :5]], count=5)
    torch.testing.assert_close(parts @ parts.T, whole @ whole.T, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("rms_norm_eps", 1e-3, "rms_norm_eps 0.001; give it the target's 1e-06"),
        ("hidden_act", "gelu", "hidden_act gelu; give it the target's silu"),
        ("rope_parameters", {"rope_type": "linear"}, "rope_parameters"),
        ("vocab_size", 41, "vocab_size 41; give it the target's 40"),
        ("mlp_bias", True, "draft has biases"),
    ],
)
def test_draft_of_another_kind_is_refused(field: str, value: object, words: str) -> None:
    """The message names what differs, both values and what to do."""
    draft = random_model(2, tied_embeddings=False)
    setattr(draft.config, field, value)
    with pytest.raises(ValueError, match=words):
        start_draft(draft, random_model(1), layers=(0, 1, 2), sample=[SAMPLE])
