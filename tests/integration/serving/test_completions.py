"""Completions and chats field by field, over the real engine and the shipped models."""

import math

import pytest
import torch
from served import events, post, served
from transformers import AutoModelForCausalLM

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "Return the sum of a list."}]


def completion(**fields) -> dict:
    return {"model": "tiny", "prompt": "import os\n", "max_tokens": 12, "temperature": 0} | fields


def chat(**fields) -> dict:
    return {"model": "tiny", "messages": MESSAGES, "max_tokens": 12, "temperature": 0} | fields


@pytest.fixture(params=[False, True], ids=["alone", "drafted"])
async def client(request, target, draft, tokenizer):
    """Return an endpoint with and without drafts."""
    async with served(target, tokenizer, draft if request.param else None) as client:
        yield client


@pytest.fixture
async def drafted(target, draft, tokenizer):
    async with served(target, tokenizer, draft) as client:
        yield client


@pytest.fixture(scope="module")
def reference(tiny_family):
    """Return log-probabilities by a plain transformers forward. Shape of each: (len(ids), V)."""
    model = AutoModelForCausalLM.from_pretrained(tiny_family / "target", dtype=torch.float32)

    @torch.inference_mode()
    def logprobs(ids: list[int]) -> torch.Tensor:
        return model(torch.tensor([ids])).logits[0].log_softmax(-1)

    return logprobs


def check_scores(reference, ids, start, logprobs, top) -> None:
    """Compare each generated token's log-probabilities with the plain forward's."""
    expected = reference(ids)
    for place, (logprob, others) in enumerate(zip(logprobs, top, strict=True), start):
        row = expected[place - 1]
        assert logprob == pytest.approx(float(row[ids[place]]), abs=1e-4)
        best = sorted((float(v) for v in row.topk(len(others)).values), reverse=True)
        assert others == pytest.approx(best, abs=1e-4)


@pytest.mark.parametrize("temperature", [0, 1])
async def test_chat_logprobs_are_a_plain_forwards(client, tokenizer, reference, temperature):
    """Each token, its bytes, its log-probability and the likeliest ones, greedy and sampled."""
    body = chat(logprobs=True, top_logprobs=3, seed=4, temperature=temperature, max_tokens=24)
    (choice,) = (await post(client, CHAT, body))["choices"]
    entries = choice["logprobs"]["content"]
    text = b"".join(bytes(entry["bytes"]) for entry in entries).decode()
    assert text.replace("<|im_end|>", "").strip() == choice["message"]["content"].strip()
    prompt = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, tokenize=False)
    ids = tokenizer.encode(prompt, add_special_tokens=False)
    vocabulary = {tokenizer.decode([i]): i for i in range(len(tokenizer))}
    answer = [vocabulary[entry["token"]] for entry in entries]
    check_scores(
        reference,
        ids + answer,
        len(ids),
        [entry["logprob"] for entry in entries],
        [[other["logprob"] for other in entry["top_logprobs"]] for entry in entries],
    )
    streamed = await events(client, CHAT, body)
    scores = [c["choices"][0]["logprobs"] for c in streamed]
    assert [entry for score in scores if score for entry in score["content"]] == entries


async def test_completion_logprobs_have_the_legacy_shape(client, tokenizer, reference):
    """Tokens, scores, alternatives and offsets, streamed and whole, and with `echo` the prompt's."""
    body = completion(logprobs=2, echo=True, max_tokens=6)
    answer = await post(client, COMPLETIONS, body)
    (choice,) = answer["choices"]
    scores = choice["logprobs"]
    prompt = tokenizer.encode("import os\n")
    assert choice["text"].startswith("import os\n")
    assert len(scores["tokens"]) == len(prompt) + 6
    assert scores["token_logprobs"][0] is scores["top_logprobs"][0] is None
    for token, offset in zip(scores["tokens"], scores["text_offset"], strict=True):
        assert choice["text"][offset:].startswith(token)
    ids = tokenizer.encode(choice["text"])
    assert [tokenizer.decode([i]) for i in ids] == scores["tokens"]
    expected = reference(ids)
    for place, (token, logprob) in enumerate(zip(ids, scores["token_logprobs"], strict=True)):
        if place:
            assert logprob == pytest.approx(float(expected[place - 1, token]), abs=1e-4)
            assert len(scores["top_logprobs"][place]) in (2, 3)
    streamed = await events(client, COMPLETIONS, body)
    parts = [chunk["choices"][0] for chunk in streamed]
    assert "".join(part["text"] for part in parts) == choice["text"]
    for name, values in scores.items():
        assert [v for p in parts if p["logprobs"] for v in p["logprobs"][name]] == values


async def test_a_prompt_is_scored_without_an_answer(drafted, reference, tokenizer):
    """`echo` with `max_tokens` 0, as evaluation harnesses ask, also for a long prompt."""
    text = "def read(self, name):\n    return name\n" * 20
    body = completion(prompt=[text, "x = 1"], echo=True, logprobs=0, max_tokens=0)
    answer = await post(drafted, COMPLETIONS, body)
    assert answer["usage"]["completion_tokens"] == 0
    ids = tokenizer.encode(text)
    rows = reference(ids)
    expected = [float(rows[i, ids[i + 1]]) for i in range(len(ids) - 1)]
    first, second = answer["choices"]
    assert first["text"] == text
    assert first["logprobs"]["token_logprobs"][1:] == pytest.approx(expected, abs=1e-4)
    assert second["text"] == "x = 1"
    assert second["finish_reason"] == "length"


async def test_several_prompts_are_several_choices(client):
    """Strings and lists of ids; each choice is the answer to its prompt alone, in order."""
    prompts = ["import os\n", "class A", "def f("]
    alone = [(await post(client, COMPLETIONS, completion(prompt=p))) for p in prompts]
    many = await post(client, COMPLETIONS, completion(prompt=prompts))
    assert [c["text"] for c in many["choices"]] == [a["choices"][0]["text"] for a in alone]
    assert [c["index"] for c in many["choices"]] == [0, 1, 2]
    for field in ("prompt_tokens", "completion_tokens"):
        assert many["usage"][field] == sum(a["usage"][field] for a in alone)
    streamed = await events(client, COMPLETIONS, completion(prompt=prompts))
    texts, reasons = ["", "", ""], [0, 0, 0]
    for chunk in streamed:
        (part,) = chunk["choices"]
        texts[part["index"]] += part["text"]
        reasons[part["index"]] += part["finish_reason"] is not None
    assert texts == [c["text"] for c in many["choices"]]
    assert reasons == [1, 1, 1]


async def test_token_ids_of_several_prompts(drafted, tokenizer):
    """A list of lists of ids is answered as its texts are, and `echo` writes them out."""
    prompts = ["import os\n", "class A"]
    ids = [tokenizer.encode(prompt) for prompt in prompts]
    by_text = await post(drafted, COMPLETIONS, completion(prompt=prompts, echo=True))
    by_ids = await post(drafted, COMPLETIONS, completion(prompt=ids, echo=True))
    assert by_text["choices"] == by_ids["choices"]
    assert by_text["choices"][1]["text"].startswith("class A")


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
async def test_n_choices_differ_and_repeat_with_their_seed(client, path):
    """Choice k has the seed's k-th successor; the prompt is counted once."""
    make = completion if path == COMPLETIONS else chat
    body = make(n=3, temperature=1, seed=7)
    answer = await post(client, path, body)
    again = await post(client, path, body)
    texts = [c.get("text") or c["message"]["content"] for c in answer["choices"]]
    assert len(set(texts)) == 3
    assert answer["choices"] == again["choices"]
    second = await post(client, path, make(temperature=1, seed=8))
    assert (
        second["choices"][0].get("text") or second["choices"][0]["message"]["content"]
    ) == texts[1]
    assert answer["usage"]["prompt_tokens"] == second["usage"]["prompt_tokens"]
    streamed = await events(client, path, body)
    joined = [""] * 3
    for chunk in streamed:
        for part in chunk["choices"]:
            joined[part["index"]] += part.get("text") or part.get("delta", {}).get("content") or ""
    assert joined == texts


async def test_biases_and_penalties_change_the_answer(client, tokenizer):
    """A banned token does not appear; penalties end repetition; a biased one always comes."""
    (plain,) = (await post(client, COMPLETIONS, completion(max_tokens=40)))["choices"]
    ids = tokenizer.encode(plain["text"])
    common = max(set(ids), key=ids.count)
    banned = completion(max_tokens=40, logit_bias={str(common): -100})
    (choice,) = (await post(client, COMPLETIONS, banned))["choices"]
    assert common not in tokenizer.encode(choice["text"])
    biased = completion(max_tokens=5, logit_bias={str(common): 100})
    (choice,) = (await post(client, COMPLETIONS, biased))["choices"]
    assert choice["text"] == tokenizer.decode([common]) * 5
    penalised = completion(
        max_tokens=5, logit_bias={str(common): 100}, presence_penalty=2, frequency_penalty=2
    )
    assert (await post(client, COMPLETIONS, penalised))["choices"][0]["finish_reason"] == "length"


async def test_stop_strings_and_ids(client, tokenizer):
    """A string or a list stops before it, or behind it where that is asked; an id stops too."""
    (free,) = (await post(client, COMPLETIONS, completion(max_tokens=24)))["choices"]
    text = free["text"]
    stop = text[6:9]
    before = text[: text.index(stop)]
    for fields, expected in (
        ({"stop": stop}, before),
        ({"stop": ["never there", stop]}, before),
        ({"stop": stop, "include_stop_str_in_output": True}, before + stop),
    ):
        (choice,) = (await post(client, COMPLETIONS, completion(max_tokens=24, **fields)))[
            "choices"
        ]
        assert (choice["text"], choice["finish_reason"]) == (expected, "stop")
    last = tokenizer.encode(text)[2]
    body = completion(max_tokens=24, stop_token_ids=[last])
    answer = await post(client, COMPLETIONS, body)
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] <= 3


async def test_parts_names_and_the_developer_role(drafted):
    """Text parts are lines, a developer is the system, a name is no reason to refuse."""
    parts = [{"type": "text", "text": "Return"}, {"type": "text", "text": "it."}]
    first = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "name": "ann", "content": parts},
    ]
    second = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Return\nit."},
    ]
    answers = [await post(drafted, CHAT, chat(messages=messages)) for messages in (first, second)]
    assert answers[0]["choices"] == answers[1]["choices"]
    assert answers[0]["usage"] == answers[1]["usage"]


async def test_a_final_message_is_continued(drafted, tokenizer):
    """With `continue_final_message` the prompt ends where the assistant's words end."""
    messages = [*MESSAGES, {"role": "assistant", "content": "def sum_of("}]
    body = chat(messages=messages, continue_final_message=True, add_generation_prompt=False)
    answer = await post(drafted, CHAT, body)
    text = tokenizer.apply_chat_template(messages, continue_final_message=True, tokenize=False)
    assert text.endswith("def sum_of(")
    raw = completion(prompt=tokenizer.encode(text, add_special_tokens=False))
    expected = (await post(drafted, COMPLETIONS, raw))["choices"][0]["text"]
    assert answer["choices"][0]["message"]["content"] == expected
    both = await drafted.post(CHAT, json=chat(messages=messages, continue_final_message=True))
    assert both.status_code == 400
    assert both.json()["error"]["param"] == "continue_final_message"


@pytest.mark.parametrize("value", [{"tokenize": True}, {"chat_template": "x"}])
async def test_template_arguments_are_the_templates_only(drafted, value):
    """What would reach the tokenizer instead of the template is refused."""
    answer = await drafted.post(CHAT, json=chat(chat_template_kwargs=value))
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "chat_template_kwargs"
    fine = await drafted.post(CHAT, json=chat(chat_template_kwargs={"enable_thinking": False}))
    assert fine.status_code == 200


async def test_a_tokenizer_without_a_template_is_a_clear_refusal(target, tokenizer, monkeypatch):
    """Chats get 400 and the way out; completions work."""
    monkeypatch.setattr(tokenizer, "chat_template", None)
    async with served(target, tokenizer) as client:
        refused = await client.post(CHAT, json=chat())
        assert refused.status_code == 400
        assert "no chat template; use /v1/completions" in refused.json()["error"]["message"]
        assert (await client.post(COMPLETIONS, json=completion())).status_code == 200


async def test_streamed_text_is_the_whole_text_under_every_setting(client):
    """Sampled, stopped, biased, penalised: the chunks join to the answer, and usage agrees."""
    for fields in (
        {"temperature": 1, "seed": 3, "n": 2},
        {"stop": ["(", "\n\n"]},
        {"temperature": 0.8, "seed": 5, "top_p": 0.9, "top_k": 40, "min_p": 0.02},
        {"repetition_penalty": 1.2, "frequency_penalty": 0.5, "min_tokens": 5},
    ):
        body = chat(max_tokens=40, **fields)
        whole = await post(client, CHAT, body)
        streamed = await events(client, CHAT, body | {"stream_options": {"include_usage": True}})
        texts = [""] * len(whole["choices"])
        for chunk in streamed[:-1]:
            (part,) = chunk["choices"]
            texts[part["index"]] += part["delta"].get("content", "")
        assert texts == [c["message"]["content"] for c in whole["choices"]]
        assert streamed[-1]["usage"] == whole["usage"]
        assert streamed[-1]["choices"] == []


async def test_completion_tokens_are_the_tokens_of_the_answer(client):
    """As many log-probabilities as tokens counted, also where a stop string ends the text."""
    for fields in ({}, {"stop": "("}, {"max_tokens": 40}):
        answer = await post(client, CHAT, chat(logprobs=True, **fields))
        entries = answer["choices"][0]["logprobs"]["content"]
        assert len(entries) == answer["usage"]["completion_tokens"]
        assert all(math.isfinite(entry["logprob"]) for entry in entries)
