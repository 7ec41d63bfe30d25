"""Makes the tiny family: corpus, tokenizer, target, distilled draft, model card."""

import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from serving.tiny.batches import Batches
from serving.tiny.corpus import Corpus, conversations
from serving.tiny.recipe import Recipe
from serving.tiny.tokenizer import train_tokenizer
from serving.tiny.trainer import Progress, initialise, train

logger = logging.getLogger(__name__)


def make_tokenizer(corpus: Corpus, recipe: Recipe) -> PreTrainedTokenizerFast:
    """Train the tokenizer on the training files."""
    return train_tokenizer(
        (file.text for file in corpus.training),
        vocabulary_size=recipe.vocabulary_size,
        context_tokens=recipe.context_tokens,
    )


def token_stream(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, recipe: Recipe
) -> np.ndarray:
    """Return all training documents, each after an end-of-text id, in seeded order. Shape: (n,)."""
    texts = [file.text for file in corpus.training]
    texts += [
        tokenizer.apply_chat_template(chat, tokenize=False)
        for chat in conversations(corpus.training, one_in=recipe.one_chat_in)
    ]
    order = np.random.default_rng(recipe.seed).permutation(len(texts))
    encode = tokenizer.backend_tokenizer.encode
    start = tokenizer.bos_token_id
    documents = [np.array([start, *encode(texts[index]).ids], np.uint16) for index in order]
    return np.concatenate(documents)


def train_target(
    stream: np.ndarray, recipe: Recipe, *, work: Path, progress: Progress
) -> LlamaForCausalLM:
    """Train the target on the stream; resumes from `work`."""
    torch.manual_seed(recipe.seed)
    model = LlamaForCausalLM(_configuration(recipe, "target"))
    initialise(model)

    def loss_of(ids: Tensor) -> Tensor:
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        return functional.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())

    train(
        model,
        Batches(stream, seed=recipe.seed),
        recipe.target_schedule,
        loss_of=loss_of,
        checkpoint=work / "target.pt",
        progress=progress,
    )
    return model


def _configuration(recipe: Recipe, role: str):
    shape = recipe.target if role == "target" else recipe.draft
    return shape.llama(
        vocabulary_size=recipe.vocabulary_size, context_tokens=recipe.context_tokens
    )
