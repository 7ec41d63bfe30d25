"""The file that carries a workload."""

import json

import pytest
import yaml

from planner.documents import read_document
from planner.errors import DocumentError
from planner.fleet.fleet_config import FleetConfig
from planner.workloads.grid import Grid
from planner.workloads.trace import Trace
from planner.workloads.trace_workloads import traced_workload
from planner.workloads.workload_file import WorkloadFile, workload_json, workload_yaml

TRACE = Trace(
    (0.0, 1.0, 2.0, 3.0, 4.0),
    (10, 20, 300, 40, 50),
    (1, 2, 3, 4, 5),
    models=("a", "a", "b", "a", ""),
)


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_a_written_workload_is_read_back(tmp_path, suffix):
    """Nine digits a number: the same workload for every purpose."""
    workload = traced_workload(TRACE, requests_per_second=1 / 3).workload
    text = workload_json(workload) if suffix == "json" else workload_yaml(workload, ["A comment."])
    path = tmp_path / f"workload.{suffix}"
    path.write_text(text)
    back = read_document(path, WorkloadFile).workload
    for size, written in zip(back.sizes(), workload.sizes(), strict=True):
        assert size.input_tokens_up_to == written.input_tokens_up_to
        assert size.rate_requests_per_second == pytest.approx(written.rate_requests_per_second)
        assert (size.mean_input_tokens is None) == (written.mean_input_tokens is None)
        if size.mean_input_tokens is not None:
            assert size.mean_input_tokens == pytest.approx(written.mean_input_tokens, rel=1e-8)


def test_a_written_workload_pastes_into_a_fleet_file(repository):
    """The section is that of a model in a fleet file, as it stands."""
    workload = traced_workload(TRACE, requests_per_second=2, grid=Grid((100, 500), (3, 5))).workload
    fleet = yaml.safe_load((repository / "configs/fleet/melange-example.yaml").read_text())
    for text in (workload_yaml(workload, []), workload_json(workload)):
        models = [fleet["models"][0] | yaml.safe_load(text)]
        config = FleetConfig.model_validate(fleet | {"models": models})
        assert config.models[0].workload.requests_per_second == 2


def test_a_file_that_is_no_workload_is_refused(tmp_path):
    """NaN included."""
    section = json.loads(workload_json(traced_workload(TRACE, requests_per_second=1).workload))
    section["workload"]["requests_per_second"] = float("nan")
    path = tmp_path / "workload.json"
    path.write_text(json.dumps(section))
    with pytest.raises(DocumentError, match=r"workload\.requests_per_second"):
        read_document(path, WorkloadFile)
