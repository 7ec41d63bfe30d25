"""The JSON schema that the remote's server is asked to hold a task list to.

`read_plan` and `choose_chunks` judge the list all the same; the schema spares a model that is held to
it most of their refusals.
"""

from router.minions.asking import Schema


def plan_schema(*, num_chunks: int, num_earlier_tasks: int) -> Schema:
    """Return the schema of a task list over `num_chunks` chunks.

    `earlier` can be said only where there are earlier tasks.
    """
    number = {"type": "integer", "minimum": 1, "maximum": max(1, num_chunks)}
    properties: dict[str, object] = {
        "task": {"type": "string"},
        "advice": {"type": "string"},
        "chunks": {
            "anyOf": [
                _object(kind={"const": "all"}),
                _object(kind={"const": "range"}, first=number, last=number),
                _object(kind={"const": "retrieve"}, query={"type": "string"}, top_k=number),
            ]
        },
    }
    required = list(properties)
    if num_earlier_tasks:
        earlier = {"type": "integer", "minimum": 1, "maximum": num_earlier_tasks}
        properties["earlier"] = {"type": "array", "items": earlier}
    task = _object(**properties) | {"required": required}
    tasks = {"type": "array", "minItems": 1, "items": task}
    return _object(tasks=tasks, fold={"enum": ["by_task", "by_chunk"]})


def _object(**properties: object) -> dict[str, object]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(properties),
        "properties": properties,
    }
