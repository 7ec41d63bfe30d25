"""What a job's `scheduling:` block takes from the rest of the job, and what it may not say."""

import pytest
from pydantic import ValidationError
from toy_job import job_content

from finetune.config import JobConfig
from finetune.scheduling.config import settings_of
from finetune.scheduling.documents import make_scheduler, to_document

CLIENTS = ("numbers", "colours", "animals")
MACHINE = {"seconds_per_step": 1, "download_bytes_per_second": 2, "upload_bytes_per_second": 3}
CLOCK = {"machines": dict.fromkeys(CLIENTS, MACHINE)}


def read(tmp_path, **changes):
    """Return a job of three clients and ten local steps."""
    texts = {name: tmp_path / f"{name}.jsonl" for name in CLIENTS}
    changes = {"local_steps": 10, "seed": 7} | changes
    return JobConfig.model_validate(job_content(tmp_path, texts, output=tmp_path, **changes))


@pytest.mark.parametrize(
    ("block", "wanted"),
    [
        ({}, {"kind": "synchronous", "local_steps": 10, "seed": 7}),
        ({"kind": "fedcompass"}, {"least_steps": 2, "most_steps": 10}),
        ({"kind": "fedcompass", "most_steps": 30}, {"least_steps": 2, "most_steps": 30}),
        ({"kind": "fedbuff"}, {"local_steps": 10, "buffer_size": 2, "seed": 7}),
    ],
)
def test_the_block_takes_steps_seed_and_buffer_from_the_job(tmp_path, block, wanted):
    """What it says itself stays; the resolved job says all of it and reads back as the same."""
    job = read(tmp_path, scheduling=block)
    content = job.scheduling.model_dump()
    assert {name: content[name] for name in wanted} == wanted
    assert JobConfig.model_validate_json(job.model_dump_json()) == job


@pytest.mark.parametrize("kind", ["synchronous", "fedcompass", "fedbuff", "fedast"])
def test_a_scheduler_is_made_of_the_block_alone(tmp_path, kind):
    """Virtual clock and refusals are the run's; the scheduler's document has its own settings."""
    adapters = [{"name": "x"}, {"name": "y"}] if kind == "fedast" else []
    job = read(tmp_path, scheduling={"kind": kind, "virtual_clock": CLOCK}, adapters=adapters)
    settings = to_document(make_scheduler(settings_of(job.scheduling)))["state"]["settings"]
    assert settings["kind"] == kind
    assert not {"virtual_clock", "most_refusals", "fedstale"} & settings.keys()
    assert job.adapter_names == (("x", "y") if adapters else ("",))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"adapters": [{"name": "x"}]}, "several adapters want scheduling of kind fedast"),
        (
            {"scheduling": {"kind": "fedast"}, "adapters": [{"name": "x"}, {"name": "x"}]},
            "names one twice",
        ),
        (
            {
                "scheduling": {"kind": "fedast"},
                "adapters": [{"name": "x", "data": {"nobody": {"kind": "package", "name": "a"}}}],
            },
            "data of 'nobody', which is no client",
        ),
        (
            {"scheduling": {"virtual_clock": {"machines": {"numbers": MACHINE}}}},
            "'animals' is in one of machines and clients",
        ),
        ({"scheduling": {"server_rate": 0.5}}, "averaged by its `aggregation`"),
        (
            {"scheduling": {"kind": "fedcompass", "staleness": {"kind": "constant"}}},
            "does not fall",
        ),
        (
            {
                "scheduling": {"selection": {"kind": "uniform", "num_clients": 2}},
                "trust": {"robust": {"kind": "median", "num_attackers": 1}},
            },
            "2 clients, 3 are needed",
        ),
    ],
)
def test_a_block_that_does_not_fit_the_job_is_refused(tmp_path, changes, words):
    """The message has the value and what to do."""
    with pytest.raises(ValidationError, match=words):
        read(tmp_path, **changes)
