"""The YAML file."""

from pathlib import Path

import pytest

from planner.documents import read_document
from planner.errors import DocumentError
from router.config import RouterConfig

EXAMPLES = sorted((Path(__file__).parents[3] / "configs" / "router").glob("*.yaml"))
MODELS = "models: [{name: m, replicas: [{url: 'http://h:1'}]}]\n"


def weighted(weights: str, *, offer: str = ", offer: a", up_to: str = "9", more: str = "") -> str:
    """Return a file with one replica and the given weights."""
    row = f"{{input_tokens_up_to: {up_to}, weights: {weights}}}"
    replica = f"{{url: 'http://h:1'{offer}}}"
    return f"models: [{{name: m, replicas: [{replica}], weights: [{row}{more}]}}]\n"


def named(host: str) -> str:
    """Return a file whose replicas stand behind a name."""
    source = f"{{kind: dns, model: m, host: {host}, port: 1}}"
    return f"models: [{{name: m}}]\ndiscovery: {{sources: [{source}]}}\n"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_examples_parse(path: Path) -> None:
    """Every shipped example is a valid configuration."""
    assert read_document(path, RouterConfig).models


def test_there_are_examples() -> None:
    """The folder of examples is where the test above looks."""
    assert EXAMPLES


def test_defaults_and_normalised_urls(tmp_path: Path) -> None:
    """A file of models alone is enough; a trailing slash is dropped."""
    path = tmp_path / "router.yaml"
    path.write_text(
        "models: [{name: m, replicas: [{url: 'http://h:1/base/'}]}]\nmax_body_bytes: 1KiB\n"
    )
    config = read_document(path, RouterConfig)
    assert config.models[0].replicas[0].url == "http://h:1/base"
    assert config.max_body_bytes == 1024
    assert config.traffic_log is None


@pytest.mark.parametrize(
    "url", ["http://u:hush@h", "https://hush@h:1/v1", "u:hush@h", "http://u:hush#€@[h/"]
)
def test_a_password_in_an_address_is_refused_and_not_shown(url: str, tmp_path: Path) -> None:
    """It would not be sent, but stand in logs and metrics; the line says where keys belong."""
    path = tmp_path / "router.yaml"
    path.write_text(MODELS.replace("http://h:1", url))
    with pytest.raises(
        DocumentError, match=r"must carry no user and no password.*api_key_file"
    ) as told:
        read_document(path, RouterConfig)
    assert "hush" not in str(told.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (MODELS + "prot: 1\n", "prot: unknown key"),
        ("models: []\n", "models"),
        ("models: [{name: m, replicas: []}]\n", r"models\.0\.replicas"),
        ("models: [{name: m, replicas: [{url: 'h:1'}]}]\n", r"replicas\.0\.url: must be http"),
        ("models: [{name: m, replicas: [{url: 'http://h:1/v1'}]}]\n", "must not end in /v1"),
        ("models: [{name: m, replicas: [{url: 'http://h:99999'}]}]\n", r"replicas\.0\.url"),
        ("models: [{name: m, replicas: [{url: 'http://h:1/€'}]}]\n", "must be printable ASCII"),
        ("models: [{name: m, replicas: [{url: 'http://a..b'}]}]\n", r"url: names no host"),
        (named("a..b"), r"discovery\.sources\.0\.dns\.host: names no host"),
        (named("x" * 64), r"discovery\.sources\.0\.dns\.host: names no host"),
        ("models: [{name: m, replicas: [{url: 'http://h:1/a b'}]}]\n", "must be printable ASCII"),
        ("models: [{name: m, replicas: [{url: 'http://ex ample'}]}]\n", "must be printable ASCII"),
        ('models: [{name: m, replicas: [{url: "http://h:1/\\n"}]}]\n', "must be printable ASCII"),
        (
            "models: [{name: m, replicas: [{url: 'http://h'}, {url: 'http://h/'}]}]\n",
            "appears twice",
        ),
        (MODELS.replace("]}]", "]}, {name: m, replicas: [{url: 'http://h:2'}]}]"), "appears twice"),
        (MODELS + "port: 65536\n", "port"),
        (weighted("{a: 1}", offer=""), r"replicas\.0\.offer: is required beside weights"),
        (weighted("{b: 1}"), r"weights\.0: no replica is of offer 'b'; name one of: a"),
        (weighted("{a: 0}"), r"weights\.0: every weight is 0"),
        (weighted("{a: -1}"), r"weights\.0\.weights\.a"),
        (weighted("{a: 0.5}"), r"weights\.0\.weights\.a"),
        (weighted("{a: yes}"), "a number is asked, not true or false"),
        (weighted("{}"), r"weights\.0\.weights"),
        (weighted("{a: 1}", up_to="0"), r"weights\.0\.input_tokens_up_to"),
        (
            weighted("{a: 1}", more=", {input_tokens_up_to: 9, weights: {a: 1}}"),
            "9 tokens follow 9; sort the ranges",
        ),
        (MODELS + "timeouts: {connect_seconds: 0}\n", r"timeouts\.connect_seconds"),
        (MODELS + "health: {interval_seconds: .nan}\n", r"health\.interval_seconds"),
    ],
)
def test_bad_files_are_refused_in_one_line(text: str, problem: str, tmp_path: Path) -> None:
    """Each mistake names its dotted path in one line."""
    path = tmp_path / "router.yaml"
    path.write_text(text)
    with pytest.raises(DocumentError, match=rf"^[^\n]*{problem}[^\n]*$"):
        read_document(path, RouterConfig)
