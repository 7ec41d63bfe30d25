"""What the demo measures on a live endpoint, through the official client and `/metrics`."""

import statistics
import time
from dataclasses import dataclass

import httpx
from openai import DefaultHttpxClient, OpenAI
from prometheus_client.parser import text_string_to_metric_families

PROMPTS = (
    "import os\nimport sys\n\n\ndef main(argv):\n",
    "class Parser:\n    def __init__(self, text):\n",
    'def read(self, size=-1):\n    """Read up to size bytes',
    "for name in sorted(names):\n    if ",
)
NEW_TOKENS = 96
REPETITIONS = 3


@dataclass(frozen=True, slots=True)
class Speed:
    """Single-stream decoding of the fixed prompts at temperature 0."""

    tokens_per_second: float
    """Median over repetitions."""
    acceptance_length: float
    """Mean tokens a drafting round emits; 1 without drafting."""
    texts: tuple[str, ...]
    """The answers, to compare endpoints."""


def single_stream_speed(url: str, model: str) -> Speed:
    """Measure one endpoint, one request at a time, after one warm-up request."""
    with loopback_client(url) as client:
        texts = [_complete(client, model, PROMPTS[0])[0]]
        before = _draft_totals(url)
        rates = []
        for _ in range(REPETITIONS):
            start = time.perf_counter()
            answers = [_complete(client, model, prompt) for prompt in PROMPTS]
            tokens = sum(count for _, count in answers)
            rates.append(tokens / (time.perf_counter() - start))
            texts = [text for text, _ in answers]
    rounds, accepted = (b - a for a, b in zip(before, _draft_totals(url), strict=True))
    length = 1 + accepted / rounds if rounds else 1.0
    return Speed(statistics.median(rates), length, tuple(texts))


def loopback_client(url: str) -> OpenAI:
    """Return the official client for an endpoint on this machine, past any proxy."""
    http_client = DefaultHttpxClient(trust_env=False)
    return OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, http_client=http_client)


def _complete(client: OpenAI, model: str, prompt: str) -> tuple[str, int]:
    answer = client.completions.create(
        model=model,
        prompt=prompt,
        max_tokens=NEW_TOKENS,
        temperature=0,
        extra_body={"ignore_eos": True},
    )
    assert answer.usage is not None, "the endpoint always counts"
    return answer.choices[0].text, answer.usage.completion_tokens


def _draft_totals(url: str) -> tuple[float, float]:
    """Return drafting rounds and accepted tokens since the endpoint's start."""
    text = httpx.get(f"{url}/metrics", timeout=10, trust_env=False).raise_for_status().text
    totals = {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    return (
        totals["vllm:spec_decode_num_drafts_total"],
        totals["vllm:spec_decode_num_accepted_tokens_total"],
    )
