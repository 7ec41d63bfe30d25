"""A trace as lines of Motley's traffic log, which every reader of traces understands."""

import json
from collections.abc import Iterator

from planner.workloads.trace import Trace


def traffic_lines(trace: Trace) -> Iterator[str]:
    """Yield one JSON line a request, in order, each with its line end; the first arrives at 0."""
    num_requests = trace.num_requests
    models = trace.models or (None,) * num_requests
    limits = trace.max_tokens or (None,) * num_requests
    columns = (trace.arrival_seconds, trace.input_tokens, trace.output_tokens, models, limits)
    for at_seconds, inputs, outputs, model, limit in zip(*columns, strict=True):
        content = {
            "schema_version": 1,
            "arrival_unix_seconds": at_seconds,
            "model": model,
            "prompt_tokens": inputs,
            "completion_tokens": outputs,
            "max_tokens": limit,
            "status": 200,
        }
        yield json.dumps(content, separators=(",", ":")) + "\n"
