"""Facts about a model's folder that several packages must agree on, read without torch."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from planner.errors import DocumentError

_CHUNK_BYTES = 1 << 22


def weights_sha256(folder: Path) -> str:
    """Return the SHA-256 over names and contents of the folder's safetensors files, hexadecimal.

    Two folders with equal digests hold the same base model, so an adapter made on one fits the
    other. Adapter files in the folder do not count.

    Raises:
        DocumentError: If the folder holds no safetensors weights.
    """
    files = sorted(
        path for path in folder.glob("*.safetensors") if not path.name.startswith("adapter_")
    )
    if not files:
        raise DocumentError(folder, "holds no .safetensors weights; name a model folder")
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def incomplete_weights(report: Mapping[str, Any]) -> str | None:
    """Return which weights transformers would make up, in words; nothing: the files hold them all.

    Args:
        report: Loading information of `from_pretrained`: `missing_keys`, and in `mismatched_keys`
            triples of tensor, shape in the files and shape of the model.
    """
    misfits = [
        f"{key} is {tuple(has)}, not {tuple(needs)}"
        for key, has, needs in report["mismatched_keys"]
    ]
    wrong = [*sorted(misfits), *sorted(f"{key} is missing" for key in report["missing_keys"])]
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return f"{', '.join(wrong[:3])}{more}" if wrong else None
