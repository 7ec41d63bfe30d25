"""FedProx's term, and what it does in local training."""

import torch

from finetune.proximal import add_proximal_gradients, proximal_gradient


def test_the_gradient_is_that_of_the_squared_distance():
    """Autograd of mu / 2 times the squared norm, over all tensors, gives the same."""
    weights = torch.tensor([[1.0, -2.0, 3.0]], requires_grad=True)
    start = torch.tensor([[0.5, 0.5, 0.5]])
    (0.3 / 2 * (weights - start).square().sum()).backward()
    torch.testing.assert_close(proximal_gradient(weights.detach(), start, mu=0.3), weights.grad)


def test_the_term_is_added_to_the_gradients_there_are():
    """A tensor without a gradient is left alone."""
    first = torch.ones(2, requires_grad=True)
    frozen = torch.ones(3)
    first.grad = torch.full((2,), 5.0)
    add_proximal_gradients([first, frozen], [torch.zeros(2), torch.zeros(3)], mu=2.0)
    assert first.grad.tolist() == [7.0, 7.0]
    assert frozen.grad is None
