"""Where the demo finds what ships with Motley: the model family and the example configurations."""

from importlib.util import find_spec
from pathlib import Path

from planner.errors import DemoError


def shipped_models() -> Path:
    """Return the folder of the model family inside the serving package.

    Raises:
        DemoError: If this installation lacks it.
    """
    spec = find_spec("serving")
    places = spec.submodule_search_locations if spec else None
    for place in places or []:
        folder = Path(place) / "models" / "tiny"
        if (folder / "target").is_dir():
            return folder
    raise DemoError("the models that ship with Motley are missing; name some with --models FOLDER")


def check_models(folder: Path) -> Path:
    """Return `folder` if it holds a target and a draft.

    Raises:
        DemoError: If it does not.
    """
    for role in ("target", "draft"):
        if not (folder / role / "config.json").is_file():
            raise DemoError(f"{folder}: holds no {role} model; name a folder with target and draft")
    return folder


def example_configurations() -> Path:
    """Return the folder of example files: the checkout's, or the copy inside a wheel.

    Raises:
        DemoError: If this installation has neither.
    """
    package = Path(__file__).parent
    for folder in (package.parent.parent / "configs", package / "configs"):
        if (folder / "fleet").is_dir():
            return folder
    raise DemoError("the example configurations are missing; run the demo in a clone of Motley")
