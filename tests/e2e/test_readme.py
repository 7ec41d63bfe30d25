"""Every command the README shows does what the README shows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import transcript

REPOSITORY = Path(__file__).parents[2]
SHOWN = transcript.commands(REPOSITORY / "README.md")
LONGEST_SECONDS = 900


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
