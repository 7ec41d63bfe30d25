"""MinionS through the router, with scripted models that speak real HTTP."""

import asyncio
import json

import pytest
from minions_models import (
    EVERY_WORD,
    QUESTION,
    Messages,
    ScriptedModel,
    direct,
    directing,
    finding,
    num_tokens,
    plan,
    planted_document,
    read_part,
    verdict,
)
from minions_router import CHAT, NAME, ask, body, pair, text_of
from router_under_test import FAST_HEALTH


async def test_planted_facts_are_found_for_a_fraction_of_the_remote_tokens(open_router) -> None:
    """Of 100,000 tokens with 40 facts every one is found, at most 1/5.7 of them sent away."""
    document, facts = planted_document(tokens=100_000, num_facts=40)
    assert num_tokens(document) >= 100_000
    async with pair(open_router) as (client, reader, director):
        reader.delay_seconds = 0.002
        answer = await ask(client, body(document))
    assert {f"{name}={word}" for name, word in facts.items()} == set(text_of(answer).split("; "))
    assert answer["minions"]["result"] == "finished"
    assert director.total_tokens <= num_tokens(document) / 5.7
    usage = answer["usage"]
    assert usage["minions"]["remote"]["total_tokens"] == director.total_tokens
    assert usage["minions"]["local"]["total_tokens"] == reader.total_tokens
    assert usage["total_tokens"] == director.total_tokens + reader.total_tokens
    assert usage["minions"]["jobs"] == len(reader.requests)
    assert 1 < reader.most_running <= 16
    assert not any(document[1000:1200] in json.dumps(each) for each in director.requests)


async def test_every_fault_of_the_remote_ends_in_a_marked_answer(open_router) -> None:
    """Malformed, over-limit and endless directions end in an answer of what was found."""
    document, facts = planted_document(tokens=4000, num_facts=5)
    task = dict(EVERY_WORD)
    cases = {
        "plan_refused": (directing(plans="import os; os.system('ls')"), {}),
        "job_limit": (directing(plans=plan(task, task, task, task)), {"max_jobs": 6}),
        "round_limit": (directing(verdicts=verdict("need_more")), {"max_rounds": 3}),
    }
    for result, (remote, limits) in cases.items():
        async with pair(open_router, remote=remote, **limits) as (client, reader, director):
            answer = await ask(client, body(document))
        assert answer["minions"]["result"] == result
        assert all(f"{name}={word}" in text_of(answer) for name, word in facts.items()), result
        assert len(director.requests) <= 12
        assert len(reader.requests) <= limits.get("max_jobs", 1000)


@pytest.mark.parametrize(
    "plans",
    [
        "no JSON",
        plan(),
        plan(EVERY_WORD | {"code": "print(1)"}),
        plan(EVERY_WORD | {"chunks": {"kind": "range", "first": 3, "last": 2}}),
        plan(EVERY_WORD | {"chunks": {"kind": "python", "source": "x"}}),
        plan(EVERY_WORD, fold="eval"),
        plan(EVERY_WORD | {"earlier": [1]}),
        "[" * 10_000,
        '{"tasks": [{"task": ' + "[" * 10_000,
    ],
)
async def test_a_malformed_plan_is_told_and_then_refused(open_router, plans) -> None:
    """The remote reads what is wrong a bounded number of times; then the question itself is run."""
    document, facts = planted_document(tokens=2000, num_facts=2)
    async with pair(open_router, remote=directing(plans=plans), plan_attempts=2) as models:
        client, reader, director = models
        answer = await ask(client, body(document))
    assert answer["minions"]["result"] == "plan_refused"
    told = [each["messages"][-1]["content"] for each in director.requests]
    assert sum("That cannot be used" in text for text in told) == 1
    assert QUESTION in reader.requests[0]["messages"][-1]["content"]
    assert all(f"{name}={word}" in text_of(answer) for name, word in facts.items())


async def test_tokens_of_a_looping_remote_stay_within_the_limit(open_router) -> None:
    """A remote that always needs more stops at its tokens, and the answer says so."""
    document, facts = planted_document(tokens=4000, num_facts=5)
    looping = directing(verdicts=verdict("need_more", None, scratchpad="x" * 4000))
    limits = {"max_rounds": 50, "remote_tokens": 6000, "final_answer_tokens": 512}
    async with pair(open_router, remote=looping, **limits) as (client, _, director):
        answer = await ask(client, body(document))
    assert answer["minions"]["result"] == "token_limit"
    assert director.total_tokens <= 6000
    assert all(f"{name}={word}" in text_of(answer) for name, word in facts.items())


async def test_a_slow_local_model_is_cut_off_and_its_findings_used(open_router) -> None:
    """When the time is over jobs are cancelled and what was found is judged."""
    document, _ = planted_document(tokens=4000, num_facts=5)
    limits = {"wall_seconds": 4.0, "closing_seconds": 3.0, "max_concurrent_jobs": 2}
    async with pair(open_router, **limits) as (client, reader, _):
        reader.delay_seconds = 0.4
        answer = await ask(client, body(document, stream=False))
        await asyncio.sleep(0.1)
        assert reader.num_running == 0
    assert answer["minions"]["result"] == "time_limit"
    assert answer["minions"]["synthesised"]
    assert 0 < answer["usage"]["minions"]["jobs"] < len(reader.requests)


async def test_dead_local_replicas_end_in_a_marked_answer(open_router) -> None:
    """Without the local model the remote closes, after a few failures and not all the jobs."""
    document, _ = planted_document(tokens=50_000, num_facts=5)
    async with pair(open_router) as (client, reader, _):
        reader.kill()
        answer = await ask(client, body(document))
    assert answer["minions"]["result"] == "local_unavailable"
    assert answer["usage"]["minions"]["failed"] == answer["usage"]["minions"]["jobs"] > 8
    assert answer["minions"]["problems"]
    assert reader.requests == []


async def test_the_document_goes_to_no_fallback(open_router) -> None:
    """What a request of the local model's name could fall back on is not asked with it."""
    document, _ = planted_document(tokens=4000, num_facts=5)
    async with (
        ScriptedModel("reader", read_part) as reader,
        ScriptedModel("director", direct) as director,
        ScriptedModel("other", read_part) as other,
        open_router(
            reader, director, other, fallbacks={"reader": ["other"]}, health=FAST_HEALTH
        ) as client,
    ):
        reader.kill()
        answer = await ask(client, body(document))
    assert answer["minions"]["result"] == "local_unavailable"
    assert other.requests == []


async def test_a_dead_remote_leaves_the_local_findings(open_router) -> None:
    """Without the remote the question is run as it is and the findings are the answer."""
    document, facts = planted_document(tokens=4000, num_facts=5)

    def local(messages: Messages) -> str:
        return read_part([{"content": "".join(each["content"] for each in messages)}])

    for name in (NAME, CHAT):
        async with pair(open_router, local=local) as (client, _, director):
            director.kill()
            answer = await ask(client, body(document) | {"model": name})
        assert answer["minions"]["result"] == "remote_unavailable"
        assert answer["minions"]["synthesised"] is False
        assert answer["usage"]["minions"]["remote"]["total_tokens"] == 0
        assert all(f"{name}={word}" in text_of(answer) for name, word in facts.items())


async def test_two_dead_models_are_an_error(open_router) -> None:
    """With nobody to answer there is no answer to mark: 503, streamed or not."""
    document, _ = planted_document(tokens=4000, num_facts=5)
    for name in (NAME, CHAT):
        async with pair(open_router) as (client, reader, director):
            reader.kill()
            director.kill()
            content = body(document) | {"model": name}
            whole = await client.post("/v1/chat/completions", json=content)
            stream = await client.post("/v1/chat/completions", json=content | {"stream": True})
        assert whole.status_code == 503
        assert "gave no answer" in whole.json()["error"]["message"]
        assert stream.text.rstrip().endswith("}}")
        assert '"code":503' in stream.text


async def test_garbage_of_the_local_model_counts_as_abstained(open_router) -> None:
    """A job whose answer is no JSON is asked once more, then it abstains."""
    document, _ = planted_document(tokens=4000, num_facts=5)
    for garbage in ("I think so!", '{"answer": ', "{}"):
        async with pair(open_router, local=lambda _, text=garbage: text) as (client, reader, _):
            answer = await ask(client, body(document, max_tokens=50))
        jobs = answer["usage"]["minions"]["jobs"]
        assert jobs > 0
        assert answer["usage"]["minions"]["abstentions"] == jobs
        assert len(reader.requests) == 2 * jobs
        assert answer["minions"]["result"] == "round_limit"


async def test_one_repair_saves_a_job(open_router) -> None:
    """A local model that mends its JSON when told loses nothing."""
    document, facts = planted_document(tokens=4000, num_facts=5)

    def careless(messages: Messages) -> str:
        return "Sure: {" if len(messages) == 2 else read_part(messages[:2])

    async with pair(open_router, local=careless) as (client, _, _):
        answer = await ask(client, body(document))
    assert answer["minions"]["result"] == "finished"
    assert answer["usage"]["minions"]["abstentions"] == 0
    assert len(text_of(answer).split("; ")) == len(facts)


async def test_later_rounds_see_what_earlier_ones_found(open_router) -> None:
    """A task that names an earlier one has its findings shown to its jobs."""
    document, _ = planted_document(tokens=2000, num_facts=1)

    def remote(messages: Messages) -> str:
        content = messages[-1]["content"]
        if "Tasks so far" in content:
            return plan(
                {
                    "task": "Check it",
                    "chunks": {"kind": "range", "first": 1, "last": 1},
                    "earlier": [1],
                }
            )
        if "second" in content and "tasks times chunks" not in content:
            return verdict("final", "checked")
        return directing(verdicts=verdict("need_more", None, feedback="check it"))(messages)

    def local(messages: Messages) -> str:
        content = messages[-1]["content"]
        return finding("second") if "Known so far" in content else read_part(messages)

    async with pair(open_router, local=local, remote=remote) as (client, reader, _):
        answer = await ask(client, body(document))
    assert text_of(answer) == "checked"
    assert answer["usage"]["minions"]["rounds"] == 2
    assert "D00x" in reader.requests[-1]["messages"][-1]["content"].partition("Task:")[0]
