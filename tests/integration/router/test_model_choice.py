"""`auto` and other pools through a running router."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from fakes import FakeReplica
from reloadable_router import ADMIN_KEY, reloadable_router
from router_under_test import FAST_HEALTH, OpenRouter, ReadLines
from small_predictor import CODE_PROMPT, POEM_PROMPT, small_predictor

from router.features_log import read_lines
from router.grades import read_grades
from router.prediction.predictor_file import write_predictor

CHAT = "/v1/chat/completions"
GRADES = "/admin/grades"
ADMIN = {"authorization": f"Bearer {ADMIN_KEY}"}


@pytest.fixture
def governance(tmp_path: Path) -> dict[str, str]:
    """Return settings with an administrator's key."""
    path = tmp_path / "admin.key"
    path.write_text(ADMIN_KEY)
    return {"admin_key_file": str(path)}


@pytest.fixture
def predictor_path(tmp_path: Path) -> Path:
    """Return a file of the small predictor."""
    path = tmp_path / "predictor.npz"
    write_predictor(small_predictor(), path)
    return path


def asking(text: str, **fields: object) -> dict[str, Any]:
    """Return a chat body to `auto`."""
    return {"model": "auto", "messages": [{"role": "user", "content": text}], **fields}


async def told(client: httpx.AsyncClient, body: dict[str, Any], **more: Any) -> tuple[str, str]:
    """Return what an answer says of the choice."""
    answer = await client.post(CHAT, json=body, **more)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-motley-model"], answer.headers["x-motley-reason"]


async def test_prompts_go_to_the_model_that_is_good_at_them(
    open_router: OpenRouter, read_lines: ReadLines, predictor_path: Path
) -> None:
    """A trained predictor picks by the prompt, the answer says what was picked, so does the log."""
    choice = {"predictor": str(predictor_path)}
    async with (
        FakeReplica(model="coder") as coder,
        FakeReplica(model="poet") as poet,
        open_router(coder, poet, model_choice=choice) as client,
    ):
        code = await told(client, asking(f"{CODE_PROMPT} [Flag: newest]"))
        poem = await told(client, asking(POEM_PROMPT, stream=True))
        metrics = (await client.get("/metrics")).text
    assert code == ("coder", "best_predicted")
    assert poem == ("poet", "best_predicted")
    assert coder.requests[0].fields == {
        "model": "coder",
        "messages": [{"role": "user", "content": CODE_PROMPT}],
    }
    assert poet.requests[0].fields["model"] == "poet"
    lines = read_lines()
    assert [line["model"] for line in lines] == ["coder", "poet"]
    assert lines[0]["choice"] == {
        "pool": "auto",
        "reason": "best_predicted",
        "goals": {"newest": 0.2},
    }
    assert (
        'motley_router_choices_total{model="poet",pool="auto",reason="best_predicted"} 1.0'
        in metrics
    )


async def test_the_header_is_the_routers(open_router: OpenRouter) -> None:
    """Goals in the header decide over those in the text, and never reach a replica."""
    pools = {"pools": {"auto": ["a", "b"]}}
    async with FakeReplica(model="a") as a, FakeReplica(model="b") as b:
        models = [
            {"name": each.model, "replicas": [{"url": each.url}], "parameters": size}
            for each, size in ((a, 8e9), (b, 1e9))
        ]
        async with open_router(a, b, models=models, model_choice=pools) as client:
            body = asking("x [Flag: most secure]")
            assert await told(client, body) == ("a", "by_goals")
            headers = {"x-motley-goals": "smallest"}
            assert await told(client, body, headers=headers) == ("b", "by_goals")
    assert "x-motley-goals" not in b.requests[0].headers
    assert "motley" not in b.requests[0].fields


async def test_pools_are_listed(open_router: OpenRouter) -> None:
    """`/v1/models` names the pools beside the models, and tells of each."""
    async with (
        FakeReplica(model="a") as replica,
        open_router(replica, model_choice={"pools": {"auto": ["a"], "team/p": ["a"]}}) as client,
    ):
        listed = (await client.get("/v1/models")).json()["data"]
        assert [entry["id"] for entry in listed] == ["a", "auto", "team/p"]
        assert (await client.get("/v1/models/team/p")).json()["id"] == "team/p"


@pytest.mark.parametrize(
    ("body", "headers", "param"),
    [
        (asking("x [Flag: odd]"), {}, "messages"),
        (asking("x [Flag: cheapest=nan]"), {}, "messages"),
        (asking("x"), {"x-motley-goals": "odd"}, "x-motley-goals"),
        (asking("x", motley={"goals": {"odd": 1}}), {}, "motley.goals"),
        (asking("x", motley=1), {}, "motley"),
    ],
)
async def test_bad_goals_are_answered_400(
    open_router: OpenRouter, body: dict[str, Any], headers: dict[str, str], param: str
) -> None:
    """In OpenAI's error body, naming the carrier; no replica is asked."""
    async with (
        FakeReplica(model="a") as replica,
        open_router(replica, model_choice={"pools": {"auto": ["a"]}}) as client,
    ):
        answer = await client.post(CHAT, json=body, headers=headers)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert not replica.requests


async def test_a_pool_avoids_what_is_down(open_router: OpenRouter, predictor_path: Path) -> None:
    """A model without a healthy replica is not picked, however good it would be."""
    choice = {"predictor": str(predictor_path)}
    async with (
        FakeReplica(model="coder", is_healthy=False) as coder,
        FakeReplica(model="poet") as poet,
        open_router(coder, poet, model_choice=choice, health=FAST_HEALTH) as client,
    ):
        assert (await told(client, asking(CODE_PROMPT)))[0] == "poet"


async def test_a_graded_answer_can_be_trained_from(
    open_router: OpenRouter, predictor_path: Path, tmp_path: Path, governance: dict[str, str]
) -> None:
    """A line of features and a grade for the same request id come together in the files."""
    features, grades = tmp_path / "features.jsonl", tmp_path / "grades.jsonl"
    choice = {
        "predictor": str(predictor_path),
        "features_log": str(features),
        "grades": str(grades),
    }
    async with (
        FakeReplica(model="coder") as coder,
        FakeReplica(model="poet") as poet,
        open_router(coder, poet, model_choice=choice, governance=governance) as client,
    ):
        answer = await client.post(CHAT, json=asking(POEM_PROMPT))
        name, model = answer.headers["x-request-id"], answer.headers["x-motley-model"]
        grade = {"request_id": name, "model": model, "score": 0.5}
        graded = await client.post(GRADES, json=[grade], headers=ADMIN)
        assert graded.json() == {"accepted": 1}
        for bad in ([{**grade, "score": 2}], grade, [{**grade, "text": "x"}]):
            refused = await client.post(GRADES, json=bad, headers=ADMIN)
            assert refused.status_code == 400
        assert (await client.post(GRADES, content=b"{", headers=ADMIN)).status_code == 400
        assert (await client.post(GRADES, json=[grade])).status_code == 401
    (line,) = read_lines(features)
    (kept,) = read_grades(grades)
    assert (kept.request_id, kept.model, kept.score) == (line.request_id, line.pick, 0.5)
    assert "moon" not in features.read_text() + grades.read_text()


async def test_grades_that_cannot_be_kept_are_answered_507(
    open_router: OpenRouter, tmp_path: Path, governance: dict[str, str]
) -> None:
    """A disk that takes none is told in the answer."""
    choice = {"pools": {"auto": ["a"]}, "grades": str(tmp_path)}
    grade = {"request_id": "r", "model": "a", "score": 1}
    async with (
        FakeReplica(model="a") as replica,
        open_router(replica, model_choice=choice, governance=governance) as client,
    ):
        answer = await client.post(GRADES, json=[grade], headers=ADMIN)
    assert answer.status_code == 507
    assert "model_choice.grades" in answer.json()["error"]["message"]


async def test_pools_follow_a_reload(tmp_path: Path, predictor_path: Path) -> None:
    """A reload puts other pools and predictors in force; one that cannot be read changes nothing."""
    async with (
        FakeReplica(model="coder") as coder,
        FakeReplica(model="poet") as poet,
        reloadable_router(tmp_path, coder, poet) as router,
    ):
        assert (await router.client.post(CHAT, json=asking("x"))).status_code == 404
        router.write(coder, poet, model_choice={"predictor": str(predictor_path)})
        assert (await router.reload()).status_code == 200
        assert (await told(router.client, asking(POEM_PROMPT)))[0] == "poet"
        await asyncio.to_thread(predictor_path.write_bytes, b"broken")
        refused = await router.reload()
        assert refused.status_code == 400
        assert "predictor.npz" in json.dumps(refused.json())
        assert (await told(router.client, asking(POEM_PROMPT)))[0] == "poet"
