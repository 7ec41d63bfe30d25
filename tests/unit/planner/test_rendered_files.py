"""What `motley plan render` writes, against the plan it came from."""

import json
import shlex
import subprocess
from collections import Counter
from pathlib import Path
from typing import get_args

import pytest
import yaml
from fleet_plans import CHAT, L4, SPOT, plan_content, small_plan

from planner.errors import RenderError
from planner.render.cli import Target
from planner.render.options import Files, RenderOptions
from planner.render.targets import (
    TARGETS,
    TRAINING_TARGETS,
    TargetName,
    TrainingTargetName,
    render,
)
from router.config import RouterConfig

GOLDEN = Path(__file__).parents[2] / "golden" / "rendered"
PLAN = small_plan()
COUNTS = {(row.model, row.offer): row.replicas for row in PLAN.replicas}
OPTIONS = RenderOptions(
    motley_command=("motley",), ports=lambda number: tuple(range(9000, 9000 + number))
)


def files_for(target: TargetName, **changes: object) -> Files:
    """Return the rendered files of the plan with some fields changed."""
    return render(small_plan(**changes), target, OPTIONS)


def documents(text: str) -> list[dict]:
    return list(yaml.safe_load_all(text))


def objects(files: Files, kind: str) -> list[dict]:
    """Return every Kubernetes object of a kind."""
    texts = [
        text for name, text in files.items() if name.endswith(".yaml") and "values/" not in name
    ]
    found = [document for text in texts for document in documents(text)]
    return [document for document in found if document.get("kind") == kind]


def router_texts(target: TargetName) -> dict[str, str]:
    """Return the router's files by name, wherever the target keeps them."""
    files = files_for(target)
    if "router.yaml" in files:
        return {name: text for name, text in files.items() if name.startswith("router")}
    (configuration,) = [
        each for each in objects(files, "ConfigMap") if "router.yaml" in each["data"]
    ]
    return configuration["data"]


def router_config(text: str) -> RouterConfig:
    return RouterConfig.model_validate(yaml.safe_load(text))


@pytest.mark.parametrize("target", TARGETS)
def test_golden_files(target: TargetName) -> None:
    """Each target's files are, letter for letter, the reviewed ones.

    `python tests/rendered/render.py --golden` writes them anew.
    """
    folder = GOLDEN / target
    golden = {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert files_for(target) == golden


def test_every_target_has_a_renderer_and_a_word() -> None:
    """The command line, the type and the registry name the same targets."""
    assert set(TARGETS) == set(get_args(TargetName))
    assert set(TRAINING_TARGETS) == set(get_args(TrainingTargetName))
    assert {each.value for each in Target} == set(TARGETS) | set(TRAINING_TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_the_routers_weights_are_the_plans(target: TargetName) -> None:
    """`motley route` reads the file, and its weights are the plan's integers, none altered."""
    config = router_config(router_texts(target)["router.yaml"])
    for model in config.models:
        planned = [row for row in PLAN.weights if row.model == model.name]
        assert [(row.input_tokens_up_to, dict(row.weights)) for row in model.weights] == [
            (row.input_tokens_up_to, row.weights) for row in planned
        ]


@pytest.mark.parametrize("target", TARGETS)
def test_a_file_for_each_market_that_may_be_lost(target: TargetName) -> None:
    """Without spot its replicas are gone and the plan's weights for that loss stand."""
    config = router_config(router_texts(target)["router-without-spot.yaml"])
    chat = config.models[0]
    assert {replica.offer for replica in chat.replicas} == {L4}
    assert [dict(row.weights) for row in chat.weights] == [{L4: 1000}, {L4: 1000}]


@pytest.mark.parametrize("target", ["kubernetes", "compose", "local"])
def test_the_router_knows_every_replica(target: TargetName) -> None:
    """One address a replica, each under its offer, as many as planned."""
    config = router_config(router_texts(target)["router.yaml"])
    urls = [replica.url for model in config.models for replica in model.replicas]
    assert len(set(urls)) == len(urls)
    for model in config.models:
        counts = Counter(replica.offer for replica in model.replicas)
        assert counts == {offer: n for (name, offer), n in COUNTS.items() if name == model.name}


@pytest.mark.parametrize("target", ["llm-d", "skypilot"])
def test_the_router_knows_every_offer(target: TargetName) -> None:
    """Where others balance inside an offer, the router has one address for each."""
    config = router_config(router_texts(target)["router.yaml"])
    offers = [replica.offer for model in config.models for replica in model.replicas]
    assert sorted(filter(None, offers)) == sorted(row.offer for row in PLAN.replicas)


def commands_of(target: TargetName) -> dict[str, list[str]]:
    """Return the words that start a replica, by offer, and check the number of replicas."""
    files = files_for(target)
    found: dict[str, list[list[str]]] = {}
    if target == "kubernetes":
        for each in objects(files, "StatefulSet"):
            container = each["spec"]["template"]["spec"]["containers"][0]
            words = container["command"] + container["args"]
            offer = each["metadata"]["annotations"]["motley/offer"]
            found[offer] = [words] * each["spec"]["replicas"]
    elif target == "llm-d":
        for text in [text for name, text in files.items() if name.startswith("values/")]:
            decode = yaml.safe_load(text)["decode"]
            container = decode["containers"][0]
            words = container["command"] + container["args"]
            found[decode["annotations"]["motley/offer"]] = [words] * decode["replicas"]
    elif target == "skypilot":
        for name, text in files.items():
            if name.startswith("services/"):
                task = yaml.safe_load(text)
                words = shlex.split(task["run"])[1:]
                row = next(row for row in PLAN.replicas if row.model in words and _runs(row, words))
                found[row.offer] = [words] * task["service"]["replica_policy"]["min_replicas"]
    elif target == "compose":
        for service in yaml.safe_load(files["compose.yaml"])["services"].values():
            if "labels" in service:
                words = service["entrypoint"] + service["command"]
                found.setdefault(service["labels"]["motley.offer"], []).append(words)
    else:
        router = router_config(files["router.yaml"])
        offers = {each.url: each.offer for model in router.models for each in model.replicas}
        for replica in json.loads(files["fleet.json"])["replicas"]:
            found.setdefault(str(offers[replica["url"]]), []).append(replica["command"])
    assert {offer: len(commands) for offer, commands in found.items()} == {
        offer: number for (_, offer), number in COUNTS.items()
    }
    return {offer: commands[0] for offer, commands in found.items()}


def _runs(row, words: list[str]) -> bool:
    at = words.index("--tensor-parallel-size") + 1 if "--tensor-parallel-size" in words else 0
    return not at or words[at] == str(row.tensor_parallel)


@pytest.mark.parametrize("target", TARGETS)
def test_replicas_run_with_the_planned_arguments(target: TargetName) -> None:
    """Counts are the plan's; each replica gets the planned flags, each once, with its values."""
    commands = commands_of(target)
    words = commands[SPOT]
    assert words[:3] == ["vllm", "serve", "Qwen/Qwen2.5-7B-Instruct"]
    planned = {
        "--served-model-name": CHAT,
        "--tensor-parallel-size": "2",
        "--pipeline-parallel-size": "1",
        "--dtype": "bfloat16",
        "--kv-cache-dtype": "fp8",
        "--max-model-len": "32768",
        "--gpu-memory-utilization": "0.92",
        "--max-num-seqs": "384",
        "--max-num-batched-tokens": "8192",
    }
    for flag, value in planned.items():
        assert words.count(flag) == 1
        assert words[words.index(flag) + 1] == value
    assert "--enable-prefix-caching" in words
    short = commands[L4]
    assert short[short.index("--max-model-len") + 1] == "8192"
    assert short[short.index("--kv-cache-dtype") + 1] == "auto"
    assert commands["xeon/owned"][:3] == ["motley", "serve", "Qwen/Qwen2.5-0.5B-Instruct"]


def test_pods_ask_for_the_planned_devices_and_market() -> None:
    """Product label, number of GPUs, spot nodes for spot and others for the rest."""
    specs = {
        each["metadata"]["annotations"]["motley/offer"]: each["spec"]["template"]["spec"]
        for each in objects(files_for("kubernetes"), "StatefulSet")
    }
    spot, plain = specs[SPOT], specs[L4]
    assert spot["nodeSelector"] == {"nvidia.com/gpu.product": "NVIDIA-H100-80GB-HBM3"}
    assert spot["containers"][0]["resources"] == {"limits": {"nvidia.com/gpu": "2"}}
    keys = {rule["key"] for rule in spot["tolerations"]}
    assert "cloud.google.com/gke-spot" in keys
    assert "cloud.google.com/gke-spot" not in {rule["key"] for rule in plain["tolerations"]}
    (term,) = plain["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert {rule["operator"] for rule in term["matchExpressions"]} == {"NotIn"}
    amd = specs["MI300X/on-demand/azure-eastus"]
    assert amd["containers"][0]["resources"] == {"limits": {"amd.com/gpu": "1"}}
    assert specs["xeon/owned"]["containers"][0]["resources"]["requests"]["cpu"] == "54"


def test_every_pool_has_a_disruption_budget_and_probes() -> None:
    """Budgets select the pools' pods; an engine that starts again is no reason to end Motley's pod."""
    files = files_for("kubernetes")
    budgets = objects(files, "PodDisruptionBudget")
    pools = objects(files, "StatefulSet")
    assert [each["spec"]["selector"] for each in budgets] == [p["spec"]["selector"] for p in pools]
    for pool in pools:
        container = pool["spec"]["template"]["spec"]["containers"][0]
        liveness_path = "/version" if container["command"][0] == "motley" else "/health"
        paths = {"startupProbe": "/health", "readinessProbe": "/health"}
        for name, path in (paths | {"livenessProbe": liveness_path}).items():
            assert container[name]["httpGet"] == {"path": path, "port": "http"}


def test_pods_are_scraped_and_named_after_the_plan() -> None:
    """Annotations and the ServiceMonitor point at /metrics; objects carry the plan's id."""
    files = files_for("kubernetes")
    for each in objects(files, "StatefulSet") + objects(files, "Deployment"):
        annotations = each["spec"]["template"]["metadata"]["annotations"]
        assert annotations["prometheus.io/path"] == "/metrics"
        assert "motley/plan" not in each["spec"]["template"]["metadata"]["labels"]
        assert len(each["metadata"]["labels"]["motley/plan"]) == 12
    (monitor,) = objects(files, "ServiceMonitor")
    selected = monitor["spec"]["selector"]["matchLabels"].items()
    for service in objects(files, "Service"):
        assert selected <= service["metadata"]["labels"].items()


def test_variants_cost_what_replicas_cost_and_routes_share_all_sizes() -> None:
    """llm-d gets prices, and weights of all sizes together: L4 serves 4.5 of 8 requests a second."""
    files = files_for("llm-d")
    costs = {each["spec"]["modelID"]: each["spec"] for each in objects(files, "VariantAutoscaling")}
    assert costs["code"]["variantCost"] == "4.590000"
    assert costs["code"]["scaleTargetRef"]["name"] == "code-mi300x-on-demand-azure-eastus-decode"
    chat = next(each for each in objects(files, "HTTPRoute") if each["metadata"]["name"] == CHAT)
    (rule,) = chat["spec"]["rules"]
    assert [backend["weight"] for backend in rule["backendRefs"]] == [563, 437]
    assert "per input size need our router" in files["README.md"]


def test_sky_services_are_sized_by_the_plan() -> None:
    """Spot, region, accelerators, counts, and the rate one replica takes at its limit."""
    task = yaml.safe_load(files_for("skypilot")["services/chat-2xh100-sxm-spot-aws-us-east-1.yaml"])
    assert task["resources"]["use_spot"] is True
    assert task["resources"]["infra"] == "aws/us-east-1"
    assert task["resources"]["accelerators"] == {"H100": 2}
    # 0.25 of 6/s and all of 2/s on 0.6 loaded replicas, at a limit of 0.8.
    rate = task["service"]["replica_policy"]["target_qps_per_replica"]
    assert rate == pytest.approx((0.25 * 6 + 2) / 0.6 * 0.8, rel=1e-5)


@pytest.mark.parametrize(
    ("region", "infra"),
    [
        ("azure-eastus", "azure/eastus"),
        ("runpod", "runpod"),
        ("melange-paper", None),
        (None, None),
    ],
)
def test_sky_services_run_where_the_offer_says(region: str | None, infra: str | None) -> None:
    """Regions that SkyPilot knows are asked for; with others the cheapest place will do."""
    files = files_for("skypilot", replicas=changed_replica(region=region))
    task = yaml.safe_load(files["services/chat-l4-on-demand-gcp-us-central1.yaml"])
    assert task["resources"].get("infra") == infra


def test_compose_gives_each_gpu_once() -> None:
    """Replicas of one vendor never share a device."""
    services = yaml.safe_load(files_for("compose")["compose.yaml"])["services"]
    given = [
        gpu
        for service in services.values()
        for device in service.get("deploy", {})
        .get("resources", {})
        .get("reservations", {})
        .get("devices", [])
        for gpu in device["device_ids"]
    ]
    assert given == ["0", "1", "2", "3"]
    assert {"router", "prometheus", "grafana"} <= services.keys()


def test_prometheus_scrapes_every_compose_service() -> None:
    """Each replica is a target under its offer, and so is the router."""
    files = files_for("compose")
    replicas, router = yaml.safe_load(files["prometheus.yml"])["scrape_configs"]
    targets = [target for group in replicas["static_configs"] for target in group["targets"]]
    services = yaml.safe_load(files["compose.yaml"])["services"]
    names = [name for name, service in services.items() if "labels" in service]
    assert targets == [f"{name}:8000" for name in names]
    assert router["static_configs"] == [{"targets": ["router:8000"]}]


@pytest.mark.parametrize("target", TARGETS)
def test_scripts_are_shell(target: TargetName) -> None:
    """`sh -n` reads every script without complaint."""
    for name, text in files_for(target).items():
        if name.endswith(".sh"):
            subprocess.run(["sh", "-n"], input=text, text=True, check=True, timeout=10)


def test_names_are_labels_and_unique() -> None:
    """Long, odd and equal-looking offers still give different DNS labels of at most 44 letters."""
    content = plan_content()
    offers = ["A/" + "x" * 150, "A/" + "x" * 149 + "y", "a:b", "a/b", "7"]
    rows = [content["replicas"][0] | {"model": "9b", "offer": offer} for offer in offers]
    models = [content["models"][0] | {"name": "9b"}]
    alone = {"model": "9b", "shares_fraction": {offers[0]: 1.0}, "weights": {offers[0]: 1000}}
    weights = [content["weights"][0] | alone]
    plan = small_plan(models=models, replicas=rows, weights=weights, market_losses=[])
    sets = objects(render(plan, "kubernetes", OPTIONS), "StatefulSet")
    names = [each["metadata"]["name"] for each in sets]
    assert len(set(names)) == len(offers)
    assert all(len(name) <= 44 and name[0].isalpha() for name in names)


def test_dollars_are_escaped_where_they_mean_something() -> None:
    """An argument with a dollar arrives as it is: compose halves `$$`, Kubernetes `$$(`."""
    rows = plan_content()["replicas"]
    rows[0]["engine_arguments"] = ["--x", "$(A)$B"]
    compose = yaml.safe_load(files_for("compose", replicas=rows)["compose.yaml"])
    assert "$$(A)$$B" in compose["services"]["chat-l4-on-demand-gcp-us-central1-0"]["command"]
    pools = objects(files_for("kubernetes", replicas=rows), "StatefulSet")
    assert "$$(A)$B" in pools[0]["spec"]["template"]["spec"]["containers"][0]["args"]


def test_the_same_plan_has_the_same_id() -> None:
    """The id follows the plan's content."""
    name = "manifests/motley-router.yaml"
    one, other = files_for("kubernetes"), files_for("kubernetes", solve_seconds=0.6)
    assert one[name] == files_for("kubernetes")[name]
    assert one[name] != other[name]


def changed_replica(**changes: object) -> list[dict]:
    rows = plan_content()["replicas"]
    return [rows[0] | changes, *rows[1:]]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"oracle_shares": True}, "depend on output lengths"),
        ({"replicas": changed_replica(gpu=None)}, "names no gpu"),
        ({"replicas": changed_replica(tensor_parallel=16)}, "16 devices spans several machines"),
        ({"replicas": changed_replica(kv_dtype="int8")}, "no cache of int8"),
    ],
)
def test_what_cannot_be_rendered_is_refused(changes: dict[str, object], words: str) -> None:
    """What, the value, what to do."""
    with pytest.raises(RenderError, match=words):
        files_for("kubernetes", **changes)


def test_a_plan_without_a_source_is_refused() -> None:
    """Nothing can be started where no weights are named."""
    models = [model | {"source": None} for model in plan_content()["models"]]
    with pytest.raises(RenderError, match="names no source of the weights"):
        files_for("local", models=models)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tensor_parallel": 2}, "runs on one device, planned are 2"),
        ({"weight_dtype": "fp8"}, "cannot keep weights as fp8"),
        ({"kv_dtype": "fp8"}, "with a cache of fp8"),
    ],
)
def test_motley_serve_is_not_asked_for_what_it_lacks(changes: dict, words: str) -> None:
    """`--engine motley` on a plan for vLLM says what does not fit."""
    options = RenderOptions(engine="motley")
    with pytest.raises(RenderError, match=words):
        render(small_plan(replicas=changed_replica(**changes)), "compose", options)
