"""Fixtures every test may use."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from planner.loopback import ensure_loopback

# With the network cut off (`unshare -n`) even loopback is off until somebody switches it on.
ensure_loopback()
# Tests speak to loopback only; a proxy of the machine must not come between.
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"
os.environ["HF_HUB_OFFLINE"] = "1"

# No example is judged by a clock: a busy machine is no failure.
settings.register_profile("motley", deadline=None)
settings.load_profile("motley")

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def repository() -> Path:
    """Return the root of the repository."""
    return REPOSITORY


@pytest.fixture(scope="session")
def tiny_family() -> Path:
    """Return the folder of the model family that ships with the code."""
    return REPOSITORY / "serving" / "models" / "tiny"


@pytest.fixture(scope="session", autouse=True)
def _few_threads() -> None:
    """Keep to one thread: two that wait for each other crawl when the machine is shared."""
    try:
        import torch
    except ModuleNotFoundError:
        return
    torch.set_num_threads(1)
