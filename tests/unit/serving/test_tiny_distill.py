import torch
from transformers import LlamaForCausalLM

from serving.tiny.distill import distillation, hard_loss, soft_loss
from serving.tiny.recipe import ModelShape


def nano_model(seed: int, *, num_layers: int = 1) -> LlamaForCausalLM:
    """Return a random model over 40 tokens."""
    torch.manual_seed(seed)
    shape = ModelShape(
        num_layers=num_layers,
        hidden_size=16,
        intermediate_size=16,
        num_heads=2,
        num_key_value_heads=2,
        head_size=8,
    )
    return LlamaForCausalLM(shape.llama(vocabulary_size=40, context_tokens=16))


def test_soft_loss_is_the_mean_divergence() -> None:
    """The soft loss equals sum p log(p / q), averaged over positions, worked out in probabilities."""
    torch.manual_seed(0)
    ours, theirs = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    law, guess = theirs.softmax(-1), ours.softmax(-1)
    expected = (law * (law / guess).log()).sum(-1).mean()
    torch.testing.assert_close(soft_loss(ours, theirs), expected)
    torch.testing.assert_close(soft_loss(theirs, theirs), torch.tensor(0.0))


def test_hard_loss_is_the_surprise_at_the_likeliest_token() -> None:
    """The hard loss looks up the draft's probability of the target's choice."""
    ours = torch.tensor([[[0.25, 0.75], [0.5, 0.5]]]).log()
    theirs = torch.tensor([[[1.0, 2.0], [3.0, 0.0]]])
    expected = -(torch.tensor(0.75).log() + torch.tensor(0.5).log()) / 2
    torch.testing.assert_close(hard_loss(ours, theirs), expected)


def test_only_the_draft_learns() -> None:
    """Gradients of the distillation loss reach the draft and never the target."""
    target, draft = nano_model(1, num_layers=2), nano_model(2)
    loss = distillation(draft, target, hard_fraction=0.5)(torch.arange(12).reshape(2, 6))
    loss.backward()
    assert all(parameter.grad is not None for parameter in draft.parameters())
    assert all(parameter.grad is None for parameter in target.parameters())
