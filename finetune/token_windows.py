"""Token windows: which tokens a client trains on at a step, and which it is judged on.

Shape suffixes: S sequences, L tokens of a sequence and the one after it.
"""

import hashlib
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]


def token_stream(documents: Iterable[str], encode: Callable[[str], list[int]]) -> Tokens:
    """Return all documents' tokens in one row. Shape: (num_tokens,)."""
    rows = [np.asarray(encode(document), np.int64) for document in documents]
    return np.concatenate(rows) if rows else np.empty(0, np.int64)


def num_windows(tokens: Tokens, sequence_tokens: int) -> int:
    """Return how many non-overlapping sequences, each with its next token, the stream holds."""
    return max(0, (len(tokens) - 1) // sequence_tokens)


def training_batches(
    tokens: Tokens,
    *,
    sequence_tokens: int,
    batch_size: int,
    num_steps: int,
    generator: np.random.Generator,
) -> list[Tokens]:
    """Return the batches of one client in one round, `num_steps` of shape (S, L).

    Windows come in random order and none repeats before all were seen; their borders move from
    round to round. The result is a function of the generator's state alone.
    """
    windows = num_windows(tokens, sequence_tokens)
    slack = len(tokens) - 1 - windows * sequence_tokens
    offset = int(generator.integers(slack + 1))
    needed = num_steps * batch_size
    order = np.concatenate([generator.permutation(windows) for _ in range(-(-needed // windows))])
    starts = offset + order[:needed] * sequence_tokens
    rows_SL = np.stack([tokens[start : start + sequence_tokens + 1] for start in starts])
    return list(rows_SL.reshape(num_steps, batch_size, sequence_tokens + 1))


def held_out_windows(tokens: Tokens, *, sequence_tokens: int, most_tokens: int) -> Tokens:
    """Return the sequences a client is judged on, spread evenly over its held-out text.

    Text shorter than one sequence gives one shorter row.

    Args:
        tokens: Held-out stream, at least two tokens. Shape: (num_tokens,).
        sequence_tokens: Tokens scored in a row.
        most_tokens: Bound on the tokens scored in all; at least one row is given.

    Returns:
        Shape: (S, L).
    """
    length = min(sequence_tokens, len(tokens) - 1)
    windows = num_windows(tokens, length)
    kept = max(1, min(windows, most_tokens // length))
    starts = np.arange(kept) * windows // kept * length
    return np.stack([tokens[start : start + length + 1] for start in starts])


def round_generator(seed: int, *, client: str, round_number: int) -> np.random.Generator:
    """Return the generator of one client in one round; no other round or client shares it.

    It depends on nothing that happened before, so a resumed run draws what it would have drawn.
    """
    digest = hashlib.sha256(client.encode()).digest()
    return np.random.default_rng((seed, round_number, int.from_bytes(digest[:8], "big")))
