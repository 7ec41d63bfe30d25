"""The wheel without extras plans, and says what to install for the rest."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def motley(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of a fresh environment that holds the wheel and its base dependencies only."""
    folder = tmp_path_factory.mktemp("base")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=REPOSITORY, check=True, capture_output=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "environment", with_pip=True)
    programs = folder / "environment" / "bin"
    install = [programs / "python", "-m", "pip", "install", "--quiet", str(wheel)]
    subprocess.run(
        [*install, "--constraint", str(REPOSITORY / "constraints.txt")], check=True, timeout=240
    )
    return programs / "motley"


def answer(motley: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run one command outside the repository."""
    return subprocess.run(
        [motley, *words], cwd=motley.parent, capture_output=True, text=True, timeout=60
    )


@pytest.mark.slow
def test_the_base_install_plans(motley):
    """The published example comes out at $4.68 an hour without torch in the environment."""
    assert not list(motley.parents[1].glob("lib/python*/site-packages/torch"))
    done = answer(motley, "plan", "fleet", str(REPOSITORY / "configs/fleet/melange-example.yaml"))
    assert done.returncode == 0, done.stderr
    assert "$4.68" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (("serve", "/nowhere"), "serving"),
        (("serve", "train-tiny", "--output", "family"), "serving"),
        (("finetune", "run", str(REPOSITORY / "configs/finetune/three-clients.yaml")), "finetune"),
    ],
)
def test_the_base_install_names_the_missing_extra(motley, words, extra):
    """What needs torch says in one line which extra to install, and exits with 2."""
    done = answer(motley, *words)
    assert done.returncode == 2
    assert f"motley[{extra}]" in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_the_base_install_reads_router_files(motley):
    """The router starts its checks without torch: a file that is not there is named."""
    done = answer(motley, "route", "nowhere.yaml")
    assert done.returncode == 2
    assert "nowhere.yaml" in done.stderr
