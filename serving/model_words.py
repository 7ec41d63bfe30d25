"""What a command line says of models, checked before anything is loaded; needs no torch."""

import json
import os
from pathlib import Path

from serving.engine.head_config import HEAD_TYPE
from serving.errors import ModelError


def check_models(model: str, draft: str | None) -> None:
    """Refuse folders that hold no model; ids of a hub are looked up when they load.

    Raises:
        ModelError: Names the word and what to give instead.
    """
    if _model_type(model, "MODEL") == HEAD_TYPE:
        raise ModelError(
            f"{model}: is a draft head ({HEAD_TYPE}) and no model; give it as --draft, and the "
            "model it was made for as MODEL"
        )
    if draft is not None:
        _model_type(draft, "--draft")


def _model_type(word: str, option: str) -> str | None:
    """Return what kind of model a folder says it holds; None for an id of a hub."""
    folder = Path(word)
    try:
        is_folder = folder.is_dir()
    except OSError as error:
        raise ModelError(
            f"{option} {word[:80]!r}: cannot be looked up ({error.strerror}); give a local folder "
            "or a hub id"
        ) from None
    if not is_folder:
        if _is_path(word):
            raise ModelError(
                f"{option} {word!r}: no such model folder; give a local folder or a hub id"
            )
        return None
    config = folder / "config.json"
    try:
        content = json.loads(config.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{option} {word!r}: holds no config.json; name the folder of a model"
        ) from None
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(
            f"{option} {word!r}: its config.json cannot be read ({reason}); correct it"
        ) from None
    return str(content.get("model_type")) if isinstance(content, dict) else None


def _is_path(word: str) -> bool:
    """Whether this can be no id of a hub, which is a name, or an owner and a name."""
    return word.startswith((".", "~", os.sep)) or word.count("/") > 1 or word.endswith("/")
