"""Reading a request and asking for usage in its place."""

import json
from collections.abc import Callable

import pytest

from router.call import Call, read_call, read_large_call, read_object, with_model
from router.errors import MalformedBodyError, ParameterError


def call(body: str) -> Call:
    """Return the request in `body`."""
    return read_call(body.encode(), target="/v1/completions", headers=())


@pytest.mark.parametrize(
    "body",
    [
        '{"model": "m"}',
        '{ "model":"m", "stream": false, "stream_options": {"include_usage": false}}',
        '{"model":"m","stream":true,"stream_options":{"include_usage":true}}',
        '{"model":"m","stream":true,"stream_options":"wrong"}',
        '{"model":"m","stream":null,"stream_options":null}',
        '{"model":"m","temperature":1e-400, "seed":0.10, "x":"\\ud800"}',
    ],
)
def test_body_is_sent_as_it_came(body: str) -> None:
    """Where usage need not or cannot be asked for, not a byte of the body changes."""
    assert call(body).body == body.encode()
    assert not call(body).withholds_usage


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            ' { "model" : "m","stream":true, "top_p": 0.10}\n',
            ' {"stream_options":{"include_usage":true}, "model" : "m","stream":true, "top_p": 0.10}\n',
        ),
        (
            '{"stream":true,"stream_options":null,"model":"m"}',
            '{"stream":true,"stream_options":{"include_usage": true},"model":"m"}',
        ),
        (
            '{"stream":true, "stream_options" :\n{"x":[1],"include_usage":false} ,"model":"m"}',
            '{"stream":true, "stream_options" :\n{"x": [1], "include_usage": true} ,"model":"m"}',
        ),
        (
            '{"a":{"stream_options":1},"stream":true,"model":"é\\u00e9","stream_options":{}}',
            '{"a":{"stream_options":1},"stream":true,"model":"é\\u00e9","stream_options":{"include_usage": true}}',
        ),
    ],
)
def test_usage_is_asked_for_by_a_splice(body: str, expected: str) -> None:
    """Only the option is written; other options and every other byte stay."""
    assert call(body).body.decode() == expected
    assert call(body).withholds_usage
    sent = json.loads(call(body).body)
    assert sent == {**json.loads(body), "stream_options": sent["stream_options"]}


@pytest.mark.parametrize("read", [read_call, read_large_call])
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b'"x"', b"null", b'{"model":"m"}x', b"\xff\xfe", b"[" * 100_000],
)
def test_malformed_bodies(read: Callable[..., Call], body: bytes) -> None:
    """Anything but one JSON object in UTF-8 is refused in one line."""
    with pytest.raises(MalformedBodyError, match=r"^the body is [^\n]+$"):
        read(body, target="/", headers=())


@pytest.mark.parametrize(
    "body",
    [
        '{"model": "m", "prompt": [[1, -2], [30000000000000000000]], "n": 1, "n": 2}',
        '{"model": "m", "stream": true, "messages": [{"content": "é"}], "logit_bias": {"5": 1.5e3}}',
        '{"model": "m", "stream": true, "stream_options": {"include_usage": false}, "x": [null]}',
    ],
)
def test_large_bodies_are_read_alike(body: str) -> None:
    """Only how long others have to wait depends on the size of a body."""
    assert read_large_call(body.encode(), target="/v1/completions", headers=()) == call(body)


@pytest.mark.parametrize("body", ["{}", '{"model":null}', '{"model":3}', '{"model":""}'])
def test_model_is_required(body: str) -> None:
    """A missing or wrong model names the field."""
    with pytest.raises(ParameterError, match="model") as caught:
        call(body)
    assert caught.value.param == "model"


@pytest.mark.parametrize("value", ["1", "0", '"yes"', '"true"', "[]", "{}"])
@pytest.mark.parametrize(
    ("form", "param"),
    [
        ('{"model":"m","stream":%s}', "stream"),
        (
            '{"model":"m","stream":true,"stream_options":{"include_usage":%s}}',
            "stream_options.include_usage",
        ),
    ],
)
def test_flags_are_booleans(form: str, param: str, value: str) -> None:
    """What one server takes for true and another for false is refused by the field's name."""
    with pytest.raises(ParameterError, match="write true or false") as caught:
        call(form % value)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"model":"m","seed":0.10}', '{"model":"né/w","seed":0.10}'),
        (' { "top_p" : 1e-400,\n"model" :\t"m" } ', ' { "top_p" : 1e-400,\n"model" :\t"né/w" } '),
        (
            '{"model":"m","x":{"model":"m"},"y":["model","m"]}',
            '{"model":"né/w","x":{"model":"m"},"y":["model","m"]}',
        ),
        ('{"model":"m","\\u006dodel":"m"}', '{"model":"né/w","\\u006dodel":"né/w"}'),
    ],
)
def test_another_model_changes_the_name_alone(body: str, expected: str) -> None:
    """Every other byte is the client's, and the request that came is as it was."""
    first = call(body)
    other = with_model(first, "né/w")
    assert other.body.decode() == expected
    assert (other.query.model, first.query.model) == ("né/w", "m")
    assert first.body == body.encode()
    assert json.loads(other.body)["model"] == "né/w"


def test_another_model_keeps_what_else_is_known() -> None:
    """Usage stays asked for, headers and target go along, the prompt is not read anew."""
    body = b'{"model":"m","stream":true,"prompt":"hello"}'
    first = read_call(body, target="/v1/completions?x=1", headers=(("a", "b"),))
    other = with_model(first, 'quo"te')
    assert json.loads(other.body) == {**json.loads(first.body), "model": 'quo"te'}
    assert other.withholds_usage
    assert (other.target, other.headers) == (first.target, first.headers)
    assert other.query.prompt is first.query.prompt


def test_a_number_of_too_many_digits_is_told_so() -> None:
    """Python's own words would send the client to a setting of the server's."""
    with pytest.raises(MalformedBodyError, match="too many digits; shorten it"):
        read_object(b'{"n": %b}' % (b"9" * 5000))
