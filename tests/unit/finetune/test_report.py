"""The numbers of the final table."""

from finetune.adapters import ClientLosses
from finetune.report import mean_losses, worst_domain


def losses(name, base, adapter):
    """Return one client's losses."""
    return ClientLosses(name=name, held_out_tokens=10, base_loss=base, adapter_loss=adapter)


def test_mean_counts_every_domain_once():
    """The mean is over clients, not over tokens."""
    mean = mean_losses([losses("a", 4.0, 3.0), losses("b", 2.0, 2.0)])
    assert (mean.base_loss, mean.adapter_loss, mean.held_out_tokens) == (3.0, 2.5, 20)


def test_worst_domain_gains_least():
    """The worst domain is the one whose loss falls least, not the one whose loss is highest."""
    clients = [losses("hard", 6.0, 4.0), losses("harmed", 2.0, 2.1), losses("easy", 1.0, 0.9)]
    assert worst_domain(clients).name == "harmed"
