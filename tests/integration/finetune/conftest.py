"""Fixtures of the fine-tuning tests: a toy model, its clients' texts, a quiet log."""

import logging

import pytest
from toy_job import job_content, write_texts, write_toy_model

from finetune.config import JobConfig


@pytest.fixture(scope="session")
def toy_model(tmp_path_factory):
    """A random model's folder."""
    return write_toy_model(tmp_path_factory.mktemp("toy-model"))


@pytest.fixture(scope="session")
def texts(tmp_path_factory):
    """Each client's JSON lines."""
    return write_texts(tmp_path_factory.mktemp("texts"))


@pytest.fixture
def make_job(toy_model, texts, tmp_path):
    """Make toy jobs with some keys changed."""

    def make(**changes):
        content = job_content(toy_model, texts, output=tmp_path / "run", **changes)
        return JobConfig.model_validate(content)

    return make


@pytest.fixture(autouse=True)
def root_log_handlers():
    """Put back the log handlers that a command line replaces."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = handlers, level
