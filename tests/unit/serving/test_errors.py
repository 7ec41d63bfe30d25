import serving.errors as errors


def every_subclass(root: type) -> set[type]:
    return {root} | {c for child in root.__subclasses__() for c in every_subclass(child)}


def test_every_failure_has_a_status():
    """The one table from exceptions to HTTP holds every class but the abstract root."""
    assert every_subclass(errors.ServingError) - {errors.ServingError} == set(errors.HTTP_ERRORS)


def test_the_body_is_openais():
    """Message, type, param and code stand under `error`."""
    status, body = errors.error_body(errors.NotFoundError("no such model", param="model"))
    assert status == 404
    assert body == {
        "error": {
            "message": "no such model",
            "type": "NotFoundError",
            "param": "model",
            "code": 404,
        }
    }
