from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaForCausalLM

from serving.tiny.batches import Batches
from serving.tiny.recipe import ModelShape, Schedule
from serving.tiny.trainer import LossFunction, initialise, train

SHAPE = ModelShape(
    num_layers=2,
    hidden_size=16,
    intermediate_size=32,
    num_heads=2,
    num_key_value_heads=1,
    head_size=8,
)
SCHEDULE = Schedule(num_steps=8, tokens_per_step=64, sequence_tokens=16, warmup_steps=2)


class InterruptedTrainingError(Exception):
    """Stands for the user's Ctrl-C."""


def nano_model(*, tied_embeddings: bool = True) -> LlamaForCausalLM:
    """Return a model of a few thousand weights, always the same."""
    torch.manual_seed(1)
    shape = SHAPE.model_copy(update={"tied_embeddings": tied_embeddings})
    model = LlamaForCausalLM(shape.llama(vocabulary_size=32, context_tokens=32))
    initialise(model)
    return model


def text_loss(model: LlamaForCausalLM) -> LossFunction:
    """Return the ordinary next-token loss."""

    def loss_of(ids: Tensor) -> Tensor:
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        return functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())

    return loss_of


def run(checkpoint: Path, *, schedule: Schedule = SCHEDULE, stop_after: int = 999) -> list[float]:
    """Train the nano model and return the losses; stops like a user's interruption would."""
    model = nano_model()
    stream = np.random.default_rng(7).integers(32, size=3000).astype(np.uint16)
    losses: list[float] = []

    def progress(done: int, total: int, loss: float) -> None:
        assert total == schedule.num_steps
        losses.append(loss)
        if done == stop_after:
            raise InterruptedTrainingError

    train(
        model,
        Batches(stream, seed=2),
        schedule,
        loss_of=text_loss(model),
        checkpoint=checkpoint,
        progress=progress,
    )
    return losses


def weights(checkpoint: Path) -> dict[str, Tensor]:
    """Return the weights a checkpoint holds."""
    state: dict[str, Tensor] = torch.load(checkpoint, weights_only=True)["model"]
    return state


def test_resumed_training_equals_unbroken(tmp_path: Path) -> None:
    """Interrupted and continued, the model sees the same batches and ends with the same weights."""
    unbroken = run(tmp_path / "unbroken.pt")
    with pytest.raises(InterruptedTrainingError):
        run(tmp_path / "broken.pt", stop_after=7)
    resumed = run(tmp_path / "broken.pt")  # from the checkpoint before the decay, at step 6
    assert resumed == pytest.approx(unbroken[6:], rel=1e-5)
    expected = weights(tmp_path / "unbroken.pt")
    for name, weight in weights(tmp_path / "broken.pt").items():
        torch.testing.assert_close(weight, expected[name], rtol=1e-4, atol=1e-6)


def test_more_steps_continue_from_before_the_decay(tmp_path: Path) -> None:
    """A checkpoint from before the decay continues under a longer schedule as if never stopped."""
    longer = SCHEDULE.model_copy(update={"num_steps": 12, "long_fraction": 0.0})
    shorter = SCHEDULE.model_copy(update={"long_fraction": 0.0})
    unbroken = run(tmp_path / "long.pt", schedule=longer)
    run(tmp_path / "short.pt", schedule=shorter)
    (tmp_path / "short.stable.pt").replace(tmp_path / "short.pt")
    extended = run(tmp_path / "short.pt", schedule=longer)
    assert extended == pytest.approx(unbroken[-len(extended) :], rel=1e-5)


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    """Forty steps on text that repeats every second token teach the nano model something."""
    model = nano_model()
    stream = np.tile(np.array([3, 9], np.uint16), 1000)
    losses: list[float] = []
    train(
        model,
        Batches(stream, seed=2),
        SCHEDULE.model_copy(update={"num_steps": 40}),
        loss_of=text_loss(model),
        checkpoint=tmp_path / "model.pt",
        progress=lambda _done, _total, loss: losses.append(loss),
    )
    assert losses[-1] < 0.5 * losses[0]


def test_an_untied_head_learns_at_the_rate_of_vectors(tmp_path: Path) -> None:
    """With hidden matrices at a standstill embedding, head and last norm learn on, by AdamW."""
    model = nano_model(tied_embeddings=False)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    train(
        model,
        Batches(np.arange(3000, dtype=np.uint16) % 32, seed=2),
        SCHEDULE.model_copy(update={"matrix_rate": 1e-30}),
        loss_of=text_loss(model),
        checkpoint=tmp_path / "model.pt",
        progress=lambda _done, _total, _loss: None,
    )
    learnt = {
        name
        for name, weight in model.named_parameters()
        if not torch.allclose(weight, before[name], atol=1e-20)
    }
    assert learnt == {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"}


def test_finished_training_is_left_alone(tmp_path: Path) -> None:
    """Training that is finished runs no further step."""
    run(tmp_path / "model.pt")
    assert run(tmp_path / "model.pt") == []


def test_blocks_start_as_the_identity() -> None:
    """Right after initialisation only embedding, norm and output decide the logits."""
    model = nano_model()
    ids = torch.arange(8).unsqueeze(0)
    hidden = model.model.norm(model.get_input_embeddings()(ids))
    torch.testing.assert_close(model(input_ids=ids).logits, model.lm_head(hidden))
