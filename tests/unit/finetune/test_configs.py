"""Every shipped job file says something valid."""

from pathlib import Path

import pytest

from finetune.config import JobConfig
from planner.documents import read_document

FOLDER = Path(__file__).parents[3] / "configs" / "finetune"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_job_parses(path):
    """The file fits the schema and names at least three clients."""
    assert len(read_document(path, JobConfig).clients) >= 3


def test_there_are_shipped_jobs():
    """The test above has something to look at."""
    assert any(FOLDER.glob("*.yaml"))
