"""The router's file with the plans it names."""

import json
import logging
import os
from pathlib import Path

import pytest
from fleet_plans import CHAT, L4, SPOT, plan_content, small_plan

from planner.errors import DocumentError
from router.config_file import ConfigFile

ADDRESSES = {
    CHAT: {L4: ["http://a:1/", "http://b:1"], SPOT: ["http://c:1"]},
    "code": {"MI300X/on-demand/azure-eastus": ["http://d:1"]},
    "tiny": {"xeon/owned": ["http://e:1"]},
}


def write(folder: Path, addresses: object = ADDRESSES, **settings: object) -> ConfigFile:
    """Write a plan as the planner does, and a router's file that names it."""
    plan = folder / "plan.json"
    if not plan.exists():
        plan.write_text(small_plan().model_dump_json())
    source = {"kind": "plan", "file": str(plan), "addresses": addresses}
    path = folder / "router.json"
    path.write_text(json.dumps({"discovery": {"sources": [source]}, **settings}))
    return ConfigFile(path, {"port": 0})


def test_a_plan_brings_its_models_replicas_and_weights(tmp_path: Path) -> None:
    """What the planner wrote is what the router follows; the command line wins over the file."""
    config = write(tmp_path, port=1).read()
    assert config.port == 0
    assert [model.name for model in config.models] == [CHAT, "code", "tiny"]
    chat = config.models[0]
    assert [(each.url, each.offer) for each in chat.replicas] == [
        ("http://a:1", L4),
        ("http://b:1", L4),
        ("http://c:1", SPOT),
    ]
    rows = [(row.input_tokens_up_to, row.weights) for row in chat.weights]
    planned = [row for row in small_plan().weights if row.model == CHAT]
    assert rows == [(row.input_tokens_up_to, row.weights) for row in planned]


def test_a_plan_adds_to_a_model_of_the_file(tmp_path: Path) -> None:
    """Replicas add up and the model's other settings stay; weights are the plan's."""
    own = {"name": CHAT, "replicas": [{"url": "http://own:1", "offer": L4}]}
    model = write(tmp_path, models=[own]).read().models[0]
    assert [each.url for each in model.replicas][:2] == ["http://own:1", "http://a:1"]
    assert model.weights


def test_replicas_of_a_plan_may_come_from_dns(tmp_path: Path) -> None:
    """The plan says where requests go, a name says where replicas are."""
    rest = {name: offers for name, offers in ADDRESSES.items() if name != "tiny"}
    file = write(tmp_path, rest, models=[{"name": "tiny"}])
    content = json.loads(file_path(tmp_path).read_text())
    dns = {"kind": "dns", "model": "tiny", "host": "pool", "port": 8000, "offer": "xeon/owned"}
    content["discovery"]["sources"].append(dns)
    file_path(tmp_path).write_text(json.dumps(content))
    tiny = next(model for model in file.read().models if model.name == "tiny")
    assert (tiny.replicas, len(tiny.weights)) == ((), 1)


def file_path(folder: Path) -> Path:
    return folder / "router.json"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"schema_version": 3}, r"plan\.json: schema_version: is 3, read is 2"),
        ({"kind": "profile"}, r"plan\.json: kind"),
        ({"weights": [{"model": CHAT}]}, r"plan\.json: weights\.0"),
        ({"oracle_shares": True}, "unknown to a router"),
    ],
)
def test_a_plan_the_router_cannot_follow_is_refused(
    changes: dict[str, object], problem: str, tmp_path: Path
) -> None:
    """Another version, another document, or shares by output length: one line."""
    (tmp_path / "plan.json").write_text(json.dumps(plan_content() | changes))
    with pytest.raises(DocumentError, match=rf"^[^\n]*{problem}[^\n]*$"):
        write(tmp_path).read()


@pytest.mark.parametrize(
    ("addresses", "settings", "problem"),
    [
        ({**ADDRESSES, CHAT: {"x": ["http://a:1"]}}, {}, "no replica of model 'chat' on offer 'x'"),
        ({**ADDRESSES, CHAT: {L4: ["http://a:1"]}}, {}, r"models\.0\.weights\.0: no replica is of"),
        ({CHAT: ADDRESSES[CHAT]}, {}, r"models\.1\.replicas: holds 0"),
        ({CHAT: {L4: ["a:1"]}}, {}, r"discovery\.sources\.0\.plan\.addresses.*must be http"),
        (
            ADDRESSES,
            {
                "models": [
                    {
                        "name": CHAT,
                        "replicas": [{"url": "http://own:1", "offer": L4}],
                        "weights": [{"input_tokens_up_to": 9, "weights": {L4: 1}}],
                    }
                ]
            },
            "gives weights to 'chat', which has its own",
        ),
    ],
)
def test_addresses_that_do_not_fit_the_plan_are_refused(
    addresses: object, settings: dict[str, object], problem: str, tmp_path: Path
) -> None:
    """What is too much and what is missing is named in one line."""
    with pytest.raises(DocumentError, match=rf"^[^\n]*{problem}[^\n]*$"):
        write(tmp_path, addresses, **settings).read()


def test_fewer_addresses_than_planned_are_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The plan counts on two; one is served all the same."""
    addresses = {**ADDRESSES, CHAT: {L4: ["http://a:1"], SPOT: ["http://c:1"]}}
    caplog.set_level(logging.WARNING)
    assert len(write(tmp_path, addresses).read().models[0].replicas) == 2
    assert "num_addresses=1 num_planned=2" in caplog.text


def test_the_stamp_follows_the_file_and_its_plans(tmp_path: Path) -> None:
    """It changes with either, and when one of them is gone."""
    file = write(tmp_path)
    file.read()
    stamps = [file.stamp()]
    for name in ("router.json", "plan.json"):
        found = (tmp_path / name).stat()
        os.utime(tmp_path / name, ns=(found.st_atime_ns, found.st_mtime_ns + 1))
        stamps.append(file.stamp())
    (tmp_path / "plan.json").unlink()
    stamps.append(file.stamp())
    assert len(set(stamps)) == len(stamps)
    assert file.stamp() == stamps[-1]
