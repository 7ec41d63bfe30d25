"""Fixtures of local runs: documents of unlike lengths, jobs on them, one process to run them."""

import pytest
import torch
from local_job_files import local_job_content, write_documents

from finetune.local_runs.local_job import LocalJob
from finetune.local_runs.local_progress import Unwatched
from finetune.local_runs.ranks import Alone
from finetune.local_runs.run_local import run_local


@pytest.fixture(scope="session")
def documents(tmp_path_factory):
    """A file of documents of 10 to 110 bytes."""
    sizes = (2, 9, 4, 20, 3, 6, 14, 2, 5, 11, 3, 18, 7, 2, 4, 8)
    return write_documents(tmp_path_factory.mktemp("documents") / "text.jsonl", num_words=sizes)


@pytest.fixture
def make_content(toy_model, documents):
    """Make the content of a job on the toy model with some keys changed."""

    def make(**changes):
        return local_job_content(toy_model, documents, **changes)

    return make


@pytest.fixture
def run_job():
    """Run a job in this process."""

    def run(content, folder):
        job = LocalJob.model_validate(content)
        alone = Alone(torch.device("cpu"))
        return run_local(job, folder=folder, ranks=alone, observer=Unwatched())

    return run
