"""What a client's text became tokens with, and what its adapter was trained on, as digests.

An adapter trained on other weights, other token ids or another chat template has the right shapes
and is still wrong, so every reply declares these and the server compares them.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class BaseIdentity:
    """Digests of a base model as a client loaded it; SHA-256, 32 bytes each.

    Attributes:
        weights: Of the weights, `planner.model_folder.weights_sha256` as bytes.
        tokenizer: Of all that decides which ids a text becomes.
        template: Of the chat template; of nothing where there is none.
    """

    weights: bytes
    tokenizer: bytes
    template: bytes


def base_identity(weights_sha256: str, tokenizer: Any) -> BaseIdentity:
    """Return the identity of a loaded base model.

    Args:
        weights_sha256: Hexadecimal digest of its weights.
        tokenizer: A transformers tokenizer, fast or slow.
    """
    template = tokenizer.chat_template
    return BaseIdentity(
        weights=bytes.fromhex(weights_sha256),
        tokenizer=_digest(_rules(tokenizer)),
        template=_digest(template if template else None),
    )


def difference(declared: BaseIdentity | None, expected: BaseIdentity) -> str | None:
    """Return how a client's base model differs from the job's and what to do, or None."""
    if declared is None:
        return "declares no base model; update the client's Motley"
    for part, remedy in (
        ("weights", "load the job's base model"),
        ("tokenizer", "take the tokenizer files that belong to the job's base model"),
        ("template", "take the chat template that belongs to the job's base model"),
    ):
        has, needs = getattr(declared, part), getattr(expected, part)
        if has != needs:
            return f"base model's {part} {_short(has)}, the job's {_short(needs)}; {remedy}"
    return None


def _rules(tokenizer: Any) -> Any:
    """Return what decides a text's ids, as JSON values."""
    special = {name: str(token) for name, token in tokenizer.special_tokens_map.items()}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return [special, sorted(tokenizer.get_vocab().items())]
    rules = json.loads(backend.to_str())
    # A call with padding or truncation leaves its settings here; they are no part of the files.
    rules.pop("padding", None)
    rules.pop("truncation", None)
    return [special, rules]


def _digest(content: Any) -> bytes:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).digest()


def _short(digest: bytes) -> str:
    return digest.hex()[:12] or "missing"
