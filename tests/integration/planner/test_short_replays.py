"""Replays of too few seconds or requests to tell anything: the plan and the report say so."""

from fleet_files import LLAMA, chat_trace, logged, modelled, written
from plan_commands import planned, simulated

from planner.workloads.trace import Trace

OFFER = {"gpu": "L40S", "region": "aws-us-east-1"}


def _plan(folder, *, duration_seconds, **changes):
    """Plan so many seconds of chat, 14 requests a second, for L40S."""
    logged(chat_trace(requests_per_second=14.0, duration_seconds=duration_seconds), folder)
    content = modelled(offers=[OFFER], **changes)
    content["models"][0]["workload"] = {"trace": "trace.jsonl"}
    return planned(written(content, folder), folder)


def test_a_short_trace_gives_no_savings_and_no_verification(tmp_path, capsys):
    """Half a minute cannot show a queue that grows; a dozen requests show nothing at all."""
    plan = _plan(tmp_path, duration_seconds=30, utilisation_limit_fraction=0.3)
    assert (plan.verification.status, plan.verification.savings) == ("met", ())
    assert not plan.latency_verified
    assert plan.latency.startswith("latency not verified: every target met, but the replay lasts")
    assert plan.latency in capsys.readouterr().out
    code, report = simulated(tmp_path, "--trace", str(tmp_path / "trace.jsonl"))
    assert (code, report["latency_verified"], report["latency"]) == (0, False, plan.latency)
    assert plan.latency in capsys.readouterr().out
    plan = _plan(tmp_path, duration_seconds=1)
    assert not plan.latency_verified
    assert f"requests of {LLAMA} are too few, at least 200 are needed" in plan.latency
    assert plan.latency in capsys.readouterr().out


def test_a_trace_cut_to_too_few_requests_verifies_nothing(tmp_path):
    """What counts is what is replayed, not what the file holds."""
    plan = _plan(tmp_path, duration_seconds=180, verification={"max_requests": 100})
    assert (plan.latency_verified, plan.verification) == (False, None)
    assert f"100 requests of {LLAMA} are too few, at least 200" in plan.latency


def test_a_simulated_trace_of_a_few_requests_verifies_nothing(tmp_path, capsys):
    """Three requests over five minutes are three samples and no verification, on screen and in JSON."""
    _plan(tmp_path, duration_seconds=30, verification=False)
    trace = Trace((0.0, 120.0, 300.0), (77, 77, 77), (7, 7, 7))
    path = str(logged(trace, tmp_path, "three.jsonl"))
    code, report = simulated(tmp_path, "--trace", path)
    words = f"latency not verified: 3 requests of {LLAMA} are too few, at least 200 are needed"
    assert (code, report["num_samples"], report["latency_verified"]) == (0, 3, False)
    assert report["latency"].startswith(words)
    assert words in capsys.readouterr().out
