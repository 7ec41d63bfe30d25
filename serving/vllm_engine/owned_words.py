"""Words and variables of vLLM's that are Motley's to say: with a user's own, neither finds the other.

vLLM answers Motley alone, on a socket of Motley's: it needs no key, no address and no TLS there.
"""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from serving.errors import ModelError

logger = logging.getLogger(__name__)

_TLS = "give Motley --tls-cert and --tls-key"
_NO_SERVER = "leave it out: Motley asks vLLM over HTTP"

OWNED: dict[str, str] = {
    "--api-key": "give Motley --api-key-file, or MOTLEY_API_KEYS in the environment",
    "--host": "give Motley --host",
    "--port": "give Motley --port",
    "--uds": "leave it out: Motley names the socket, and listens with --host and --port",
    "--root-path": "leave it out: Motley asks for vLLM's paths as they are",
    "--ssl-keyfile": _TLS,
    "--ssl-certfile": _TLS,
    "--ssl-ca-certs": _TLS,
    "--ssl-cert-reqs": _TLS,
    "--ssl-ciphers": _TLS,
    "--enable-ssl-refresh": _TLS,
    "--headless": _NO_SERVER,
    "--grpc": _NO_SERVER,
    "--model": "name it as the first word, MODEL",
    "--served-model-name": "give Motley --served-model-name",
    "--lora-modules": "give Motley --adapter NAME=FOLDER",
}
"""What to do instead of each; the flags are those of vLLM 0.32."""

_KEY_VARIABLE = "VLLM_API_KEY"
_SECRETS = ("--hf-token",)


def refuse_owned(words: Sequence[str], *, source: str) -> None:
    """Refuse the words of a user that would keep Motley and vLLM apart.

    Abbreviations count, and what a `--config` file holds: vLLM reads both.

    Args:
        words: Words for vLLM, as the user or a plan has them.
        source: Where they stand, for the message.

    Raises:
        ModelError: Names the first such word and what to do instead.
    """
    for word, following in zip(words, (*words[1:], ""), strict=False):
        flag, _, value = word.partition("=")
        if not flag.startswith("--") or flag == "--":
            continue
        _refuse(flag, source)
        if flag == "--config":
            for name in _names_in(Path(value or following)):
                _refuse(f"--{name}", value or following)


def without_key(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables less vLLM's own key, with which it would refuse what Motley passes on."""
    if variables.get(_KEY_VARIABLE):
        logger.warning(
            "%s is not passed on to vllm, which answers Motley alone; keys of clients are %s",
            _KEY_VARIABLE,
            "--api-key-file and MOTLEY_API_KEYS",
        )
    return {name: value for name, value in variables.items() if name != _KEY_VARIABLE}


def loggable(words: Sequence[str]) -> list[str]:
    """Return words without the secrets among them; vLLM takes abbreviations of their flags too."""
    shown = []
    for word, before in zip(words, ("", *words), strict=False):
        flag, equals, _ = word.partition("=")
        if _is_secret(before):
            shown.append("***")
        else:
            shown.append(f"{flag}=***" if equals and _is_secret(flag) else word)
    return shown


def _refuse(flag: str, source: str) -> None:
    given = _dashed(flag)
    for owned, remedy in OWNED.items():
        if owned.startswith(given):
            raise ModelError(f"{source}: vLLM's {owned} is Motley's to say; {remedy}")


def _is_secret(flag: str) -> bool:
    return len(flag) > 2 and any(secret.startswith(_dashed(flag)) for secret in _SECRETS)


def _dashed(flag: str) -> str:
    return flag.replace("_", "-")


def _names_in(file: Path) -> list[str]:
    """Return the options that a file of vLLM's holds; none where vLLM cannot read it either."""
    try:
        content = yaml.safe_load(file.read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return []
    return [str(name) for name in content] if isinstance(content, dict) else []
