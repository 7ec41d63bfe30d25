"""The corpus as token ids: the training stream, and single documents for judging."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerFast

from serving.tiny.bigram import TokenIds
from serving.tiny.corpus import Corpus, SourceFile, conversations
from serving.tiny.recipe import Recipe
from serving.tiny.tokenizer import train_tokenizer


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """A corpus and the tokenizer trained on its training files."""

    corpus: Corpus
    tokenizer: PreTrainedTokenizerFast

    def documents(self, files: Iterable[SourceFile]) -> Iterator[TokenIds]:
        """Yield the ids of each file. Shape: (n + 1,), the end-of-text id first."""
        return (self._ids(file.text) for file in files)

    def training_stream(self, recipe: Recipe) -> TokenIds:
        """Return all training documents and chats, each after an end-of-text id, in seeded order.

        Shape: (n,).
        """
        texts = [file.text for file in self.corpus.training]
        texts += [
            str(self.tokenizer.apply_chat_template(chat, tokenize=False))
            for chat in conversations(self.corpus.training, one_in=recipe.one_chat_in)
        ]
        order = np.random.default_rng(recipe.seed).permutation(len(texts))
        return np.concatenate([self._ids(texts[index]) for index in order])

    def _ids(self, text: str) -> TokenIds:
        start = self.tokenizer.bos_token_id
        return np.array([start, *self.tokenizer.backend_tokenizer.encode(text).ids], np.uint16)


def tokenize(corpus: Corpus, recipe: Recipe) -> TokenizedText:
    """Train the tokenizer on the training files; the held-out files are not looked at."""
    tokenizer = train_tokenizer(
        (file.text for file in corpus.training),
        vocabulary_size=recipe.vocabulary_size,
        context_tokens=recipe.context_tokens,
    )
    return TokenizedText(corpus, tokenizer)
