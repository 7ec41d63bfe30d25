"""Every command the README shows does what the README shows."""

import json
import os
import re
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import transcript
import yaml

REPOSITORY = Path(__file__).parents[2]
SHOWN = transcript.commands(REPOSITORY / "README.md")
LONGEST_SECONDS = 900
(SCRIPT,) = re.findall(r"^```sh\n(.*?)^```$", (REPOSITORY / "README.md").read_text(), re.M | re.S)
ROUTER_FILE = "configs/router/two-replicas.yaml"
JOB_FILE = "configs/finetune/three-clients.yaml"


@pytest.mark.timeout(LONGEST_SECONDS + 30)
@pytest.mark.parametrize("command", SHOWN, ids=lambda command: command.line[:40])
def test_a_command_of_the_readme_prints_what_the_readme_says(command, tmp_path):
    """Numbers may differ from machine to machine; every other character may not."""
    words = command.line.replace("make demo", "motley demo").split()
    assert words[0] == "motley"
    done = subprocess.run(
        [sys.executable, "-m", "motley", *words[1:]],
        cwd=REPOSITORY,
        env=os.environ | {"COLUMNS": "100", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=LONGEST_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert not transcript.missing_lines(command.expected, done.stdout), done.stdout


def test_the_readme_shows_planning_and_the_whole_road():
    """The transcript covers the planner and the demo, which runs all the rest."""
    shown = " ".join(command.line for command in SHOWN)
    assert "motley plan fleet" in shown
    assert "make demo" in shown


def test_the_script_of_the_readme_agrees_with_the_files_it_names():
    """Ports, model and folders of the commands are those of the two example files."""
    router = yaml.safe_load((REPOSITORY / ROUTER_FILE).read_text())
    job = yaml.safe_load((REPOSITORY / JOB_FILE).read_text())
    (model,) = router["models"]
    served = re.findall(
        r"^motley serve (\S+) .*--served-model-name (\S+) --port (\d+) &$", SCRIPT, re.M
    )
    assert [f"http://127.0.0.1:{port}" for *_, port in served] == [
        r["url"] for r in model["replicas"]
    ]
    assert {(folder, name) for folder, name, _ in served} == {(job["model"], model["name"])}
    assert f"--endpoint http://{router['host']}:{router['port']} --name mine" in SCRIPT
    assert f"motley finetune publish {job['output']}/adapter" in SCRIPT
    assert ROUTER_FILE in SCRIPT
    assert JOB_FILE in SCRIPT


def test_the_readme_quotes_the_card():
    """The speed-up the README sets beside the demo's is the card's for the default of 4 drafts."""
    card = (REPOSITORY / "serving/models/tiny/README.md").read_text()
    found = re.search(r"^\| 4 \|.* (\S+) \|$", card, re.M)
    assert found is not None
    text = " ".join((REPOSITORY / "README.md").read_text().split())
    assert f"the card expects {found[1]}x of the same 4 drafted tokens" in text


@pytest.mark.slow
@pytest.mark.timeout(LONGEST_SECONDS + 30)
def test_the_script_of_the_readme_runs(tmp_path):
    """Line by line in a shell, on ports that are free and one short round of training."""
    script = make_place(tmp_path)
    done = subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        timeout=LONGEST_SECONDS,
    )
    assert done.returncode == 0, done.stdout
    assert "answers under the model name 'mine'" in done.stdout
    answer = json.loads(done.stdout[done.stdout.index("{") :])
    assert answer["model"] == "mine"
    assert answer["usage"]["completion_tokens"] > 0


def make_place(folder: Path) -> str:
    """Lay out what the script needs in `folder`, its ports free ones; return the script."""
    (folder / "serving").symlink_to(REPOSITORY / "serving")
    motley = folder / "motley"
    motley.write_text(
        f'#!/bin/sh\nPYTHONPATH={REPOSITORY} exec {sys.executable} -P -m motley "$@"\n'
    )
    motley.chmod(0o755)
    with ExitStack() as sockets:
        free = [sockets.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        ports = {str(8000 + i): str(each.getsockname()[1]) for i, each in enumerate(free)}

    def moved(text: str) -> str:
        return re.sub(r"\b800[012]\b", lambda port: ports[port[0]], text)

    for name in (ROUTER_FILE, JOB_FILE):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(moved((REPOSITORY / name).read_text()))
    job = yaml.safe_load((folder / JOB_FILE).read_text())
    job |= {"rounds": 1, "local_steps": 1, "held_out_tokens": 512}
    (folder / JOB_FILE).write_text(yaml.safe_dump(job))
    # Servers must not outlive a command that fails.
    return "trap 'kill $(jobs -p) 2> /dev/null' EXIT\n" + moved(SCRIPT)
