"""The JSON object in a model's reply."""

import json

_DECODER = json.JSONDecoder()


class NoObjectError(ValueError):
    """The reply holds no JSON object."""


def read_json_object(text: str) -> dict[str, object]:
    """Return the first JSON object in `text`; words and a code fence around it are passed over.

    Raises:
        NoObjectError: If what begins at the first brace is no whole JSON object.
    """
    start = text.find("{")
    if start < 0:
        raise NoObjectError("the reply holds no JSON object; reply with one and nothing else")
    try:
        content, _ = _DECODER.raw_decode(text, start)
    except RecursionError:
        raise NoObjectError("the JSON is nested too deeply; write less") from None
    except ValueError as error:
        raise NoObjectError(f"the JSON breaks: {error}; correct it") from None
    assert isinstance(content, dict)
    return content
