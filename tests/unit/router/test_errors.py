"""The error table."""

from http import HTTPStatus

from router.error_answers import ANSWERS, error_body, status_of
from router.errors import ParameterError, RouterError, UnknownModelError


def all_classes(root: type[RouterError]) -> set[type[RouterError]]:
    """Return `root` and everything below it."""
    return {root}.union(*[all_classes(each) for each in root.__subclasses__()])


def test_every_class_is_in_the_table() -> None:
    """Each error class has its own row with a status and a type."""
    assert set(ANSWERS) == all_classes(RouterError)
    for status, kind in ANSWERS.values():
        assert status == 499 or HTTPStatus(status) >= 400
        assert kind.endswith("Error")


def test_body_is_openais() -> None:
    """The body has OpenAI's four fields, with the status as code."""
    error = ParameterError("model", "is required; add it to the body")
    assert error_body(error) == {
        "error": {
            "message": "model: is required; add it to the body",
            "type": "BadRequestError",
            "param": "model",
            "code": 400,
        }
    }


def test_unknown_model_lists_what_exists() -> None:
    """The message names the models to use instead, and stays short for a long name."""
    error = UnknownModelError("x" * 10_000, ["a", "b"])
    assert str(error).endswith("does not exist; use one of: a, b")
    assert len(str(error)) < 200
    assert status_of(error) == 404
    assert str(error.naming_only("b".__eq__)).endswith("does not exist; use one of: b")
    assert str(error.naming_only("c".__eq__)).endswith("does not exist; there is none to use")
