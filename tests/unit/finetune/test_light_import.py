"""The command line comes up without the heavy packages."""

import subprocess
import sys

CODE = """
import sys
import finetune.cli, finetune.config, motley
assert motley.main(["finetune", "--help"]) == 0
heavy = {"torch", "flwr", "peft", "transformers", "accelerate", "safetensors"} & sys.modules.keys()
sys.exit(f"imported {heavy}" if heavy else 0)
"""


def test_help_imports_nothing_heavy():
    """Neither importing the command line nor its help loads torch, Flower or PEFT."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
