"""The wheel without extras plans and routes, and says what to install for the rest."""

import re
import subprocess
import sys
import time
import venv
from pathlib import Path

import httpx
import pytest

REPOSITORY = Path(__file__).parents[2]
START_SECONDS = 60
LISTENING = re.compile(r"listening url=(\S+)")

pytestmark = [pytest.mark.slow, pytest.mark.network]


def run(*words: str | Path, timeout_seconds: float) -> subprocess.CompletedProcess[str]:
    """Run a program outside the repository and keep what it says."""
    folder = Path(words[0]).parent
    return subprocess.run(
        words, cwd=folder, capture_output=True, text=True, timeout=timeout_seconds
    )


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a fresh environment that holds the wheel and its base dependencies only."""
    folder = tmp_path_factory.mktemp("base")
    venv.create(folder / "environment", with_pip=True)
    programs = folder / "environment" / "bin"
    skip_without_index(programs / "python", folder / "reachable")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    install = ["-m", "pip", "install", "--quiet", wheel, "--constraint"]
    done = run(programs / "python", *install, REPOSITORY / "constraints.txt", timeout_seconds=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return programs


def skip_without_index(python: Path, folder: Path) -> None:
    """Skip where pip reaches no package index: one small package is asked for."""
    download = ["-m", "pip", "download", "--no-deps", "--retries", "0", "--timeout", "10"]
    done = run(python, *download, "--dest", folder, "idna", timeout_seconds=60)
    if done.returncode != 0:
        pytest.skip(f"no package index is reachable: {done.stderr.strip().splitlines()[-1]}")


def test_the_base_install_plans(programs):
    """The published example comes out at $4.68 an hour without torch in the environment."""
    found = (
        "import importlib.util as u; print(*(bool(u.find_spec(n)) for n in ('pydantic', 'torch')))"
    )
    assert run(programs / "python", "-c", found, timeout_seconds=60).stdout.split() == [
        "True",
        "False",
    ]
    file = REPOSITORY / "configs/fleet/melange-example.yaml"
    done = run(programs / "motley", "plan", "fleet", file, timeout_seconds=60)
    assert done.returncode == 0, done.stderr
    assert "$4.68" in done.stdout


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (("serve", "/nowhere"), "serving"),
        (("serve", "train-tiny", "--output", "family"), "serving"),
        (("finetune", "run", REPOSITORY / "configs/finetune/three-clients.yaml"), "finetune"),
    ],
)
def test_the_base_install_names_the_missing_extra(programs, words, extra):
    """What needs torch says in one line which extra to install, and exits with 2."""
    done = run(programs / "motley", *words, timeout_seconds=60)
    assert done.returncode == 2
    assert f"motley[{extra}]" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_the_base_install_routes(programs, tmp_path):
    """The shipped router file starts an endpoint without torch, which knows the file's replicas."""
    log = tmp_path / "route.log"
    file = REPOSITORY / "configs/router/two-replicas.yaml"
    with log.open("wb") as output:
        router = subprocess.Popen(
            [programs / "motley", "route", file, "--port", "0"],
            cwd=tmp_path,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not (found := LISTENING.search(log.read_text())):
            assert router.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        answer = httpx.get(f"{found[1]}/health", timeout=30).json()
        assert answer["models"]["tiny"]["replicas"] == 2
    finally:
        router.terminate()
    assert router.wait(START_SECONDS) == 0
