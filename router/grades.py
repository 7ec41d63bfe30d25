"""Grades of answers: `POST /admin/grades`, and the file they are kept in.

The body is a list of `{"request_id", "model", "score"}`: the answer's `x-request-id` and
`x-motley-model`, and a score from 0 to 1. Each becomes one JSON line of the same fields. A later grade
of the same answer replaces an earlier one when the file is read.
"""

import json
import os
from pathlib import Path
from typing import Annotated

from pydantic import Field, TypeAdapter, ValidationError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from planner.config import StrictModel
from planner.errors import DocumentError
from planner.units import Number
from router.errors import GradesUnwrittenError, MalformedBodyError, ParameterError
from router.exchange import read_body
from router.line_file import append_whole

MOST_GRADES = 10_000
"""In one request."""


class Grade(StrictModel):
    """How good one answer was."""

    request_id: Annotated[str, Field(min_length=1, max_length=128)]
    """Its `x-request-id`."""
    model: Annotated[str, Field(min_length=1, max_length=500)]
    """Who gave it."""
    score: Annotated[Number, Field(ge=0, le=1)]
    """From 0, useless, to 1, as good as can be."""


_GRADES = TypeAdapter(Annotated[list[Grade], Field(max_length=MOST_GRADES)])


class Grades:
    """Takes grades and appends them to a file."""

    def __init__(self, path: Path, *, max_body_bytes: int) -> None:
        self._path = path
        self._max_body_bytes = max_body_bytes

    async def accept(self, request: Request) -> Response:
        """Append the grades of the body, all of them or none.

        Raises:
            MalformedBodyError: If the body is no JSON.
            ParameterError: If it is no list of grades.
            GradesUnwrittenError: If the disk does not take them.
        """
        limit = self._max_body_bytes
        grades = _parsed(await read_body(request.scope, request.receive, max_body_bytes=limit))
        lines = "".join(f"{_line(grade)}\n" for grade in grades).encode()
        try:
            _append(self._path, lines)
        except OSError as error:
            told = f"the grades cannot be written ({error.strerror})"
            raise GradesUnwrittenError(f"{told}; make room, or set model_choice.grades") from None
        return JSONResponse({"accepted": len(grades)})


def read_grades(path: Path) -> list[Grade]:
    """Return a file's grades, the last one of each answer.

    Raises:
        DocumentError: If it cannot be read or a line is no grade.
    """
    grades: dict[tuple[str, str], Grade] = {}
    try:
        with path.open(encoding="utf-8") as lines:
            for number, text in enumerate(lines, start=1):
                if not text.strip():
                    continue
                try:
                    grade = Grade.model_validate_json(text)
                except ValidationError as error:
                    problem = _first(error)
                    raise DocumentError(path, f"line {number}: {problem}; correct it") from None
                grades[grade.request_id, grade.model] = grade
    except (OSError, UnicodeDecodeError) as error:
        raise DocumentError(path, f"cannot be read ({error}); name a file of grades") from None
    return list(grades.values())


def _parsed(body: bytes) -> list[Grade]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise MalformedBodyError("the body is not valid JSON; send a list of grades") from None
    try:
        return _GRADES.validate_python(content)
    except ValidationError as error:
        raise ParameterError("grades", _first(error)) from None


def _first(error: ValidationError) -> str:
    """Return the first problem, without the value: it may be long."""
    told = error.errors(include_input=False, include_url=False, include_context=False)[0]
    where = ".".join(str(part) for part in told["loc"])
    return f"{where}: {told['msg']}" if where else str(told["msg"])


def _line(grade: Grade) -> str:
    return json.dumps(grade.model_dump(), separators=(",", ":"))


def _append(path: Path, lines: bytes) -> None:
    """Append whole lines by one write, so that several processes may."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        append_whole(descriptor, path, lines)
    finally:
        os.close(descriptor)
