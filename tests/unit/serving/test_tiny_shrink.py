import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

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


def logits(model: LlamaForCausalLM) -> Tensor:
    """Return the logits on some tokens."""
    with torch.inference_mode():
        return model(input_ids=(SAMPLE + 1) % 40, use_cache=False).logits


def test_draft_with_everything_kept_is_the_target() -> None:
    """All layers, directions and neurons kept: the rotated, folded model has the target's logits."""
    target, draft = random_model(1), random_model(2, tied_embeddings=False)
    start_draft(draft, target, layers=(0, 1, 2), sample_BT=SAMPLE)
    torch.testing.assert_close(logits(draft), logits(target), rtol=1e-4, atol=1e-4)
    assert not torch.equal(draft.lm_head.weight, target.lm_head.weight)


def test_draft_keeps_what_matters() -> None:
    """Directions no token uses and neurons of no weight can go without changing a logit."""
    target = random_model(1)
    with torch.no_grad():
        target.model.embed_tokens.weight[:, 12:] = 0
        for layer in target.model.layers:
            layer.self_attn.o_proj.weight[12:] = 0
            layer.mlp.down_proj.weight[12:] = 0
            layer.mlp.down_proj.weight[:, ::3] *= 1e-6
    draft = random_model(2, hidden_size=12, intermediate_size=16, tied_embeddings=False)
    start_draft(draft, target, layers=(0, 1, 2), sample_BT=SAMPLE)
    torch.testing.assert_close(logits(draft), logits(target), rtol=1e-3, atol=1e-3)


def test_draft_takes_the_named_layers() -> None:
    """A draft of layers 0 and 2 equals the target with layer 1 taken out."""
    target = random_model(1)
    draft = random_model(2, num_layers=2, tied_embeddings=False)
    start_draft(draft, target, layers=(0, 2), sample_BT=SAMPLE)
    del target.model.layers[1]
    target.config.num_hidden_layers = 2
    for index, layer in enumerate(target.model.layers):
        layer.self_attn.layer_idx = index
    torch.testing.assert_close(logits(draft), logits(target), rtol=1e-4, atol=1e-4)


def test_principal_directions_are_orthonormal() -> None:
    """The basis keeps lengths."""
    basis_Ee = principal_directions(random_model(1), SAMPLE, count=5)
    torch.testing.assert_close(basis_Ee.T @ basis_Ee, torch.eye(5))


@pytest.mark.parametrize(
    ("changes", "layers", "words"),
    [
        ({"hidden_size": 32}, (0, 1, 2), "hidden_size 32; give it at most the target's 16"),
        ({"num_heads": 1}, (0, 1, 2), "num_attention_heads 1; give it exactly the target's 2"),
        ({"tied_embeddings": True}, (0, 1, 2), "untie"),
        ({}, (0, 1), "has 3 layers and starts from 2"),
        ({}, (0, 1, 3), "no layer 3; name layers below 3"),
    ],
)
def test_draft_that_does_not_fit_is_refused(
    changes: dict[str, object], layers: tuple[int, ...], words: str
) -> None:
    """The message names the size, both values and what to do."""
    draft = random_model(2, **({"tied_embeddings": False} | changes))
    with pytest.raises(ValueError, match=words):
        start_draft(draft, random_model(1), layers=layers, sample_BT=SAMPLE)
