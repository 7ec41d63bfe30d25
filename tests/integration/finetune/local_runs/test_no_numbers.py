"""Runs whose weights grow beyond all numbers."""

import pytest

from finetune.errors import LocalRunError
from finetune.local_runs.local_folder import LocalFolder


def test_a_rate_beyond_all_measure_is_named_in_one_line(make_content, run_job, tmp_path):
    """The step is told; no checkpoint and no metrics hold what is no number."""
    content = make_content(adapter=None, steps=6, learning_rate=1e30, checkpoint_every=1)
    with pytest.raises(LocalRunError, match=r"^step \d: the loss is .*; lower learning_rate"):
        run_job(content, tmp_path / "run")
    run = LocalFolder(tmp_path / "run")
    assert all(line.loss < 1e30 for line in run.history())
    assert run.result() is None
