"""Handing a finished adapter to a serving endpoint, with vLLM's request."""

from pathlib import Path

import httpx
from pydantic import TypeAdapter, ValidationError

from finetune.adapters import read_adapter
from finetune.config import Name
from finetune.errors import EndpointError, FinetuneError

CONNECT_SECONDS = 5.0
LOAD_SECONDS = 120.0
"""Longest an endpoint may take to load the adapter."""


def publish(folder: Path, *, endpoint: str, name: str, client: httpx.Client | None = None) -> str:
    """Load an adapter into a running endpoint and return the model name it answers under.

    Args:
        folder: An adapter folder; the endpoint reads it by its absolute path.
        endpoint: Address such as `http://127.0.0.1:8000`; an ending `/v1` is taken off.
        name: Model name for the adapter.
        client: Sends the request; a new one by default.

    Raises:
        AdapterFolderError: If the folder is no complete adapter.
        EndpointError: If the endpoint cannot be reached or does not take the adapter; behind a
            router, if any replica did not, though the others may have it.
        FinetuneError: If `endpoint` is no HTTP address, or `name` no name.
    """
    read_adapter(folder)
    _check_name(name)
    address = _address(endpoint)
    body = {"lora_name": name, "lora_path": str(folder.resolve())}
    try:
        response = _post(client, f"{address}/v1/load_lora_adapter", body)
    except httpx.TimeoutException:
        raise EndpointError(f"{address}: no answer in time; check that it is up") from None
    except httpx.TransportError as error:
        raise EndpointError(
            f"{address}: cannot be reached ({error}); check that it is up"
        ) from None
    if not response.is_success:
        raise EndpointError(
            f"loading {name!r} into {address} failed (HTTP {response.status_code}): "
            f"{_reason(response)}"
        )
    return name


def _check_name(name: str) -> None:
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise FinetuneError(
            f"name {name[:80]!r} is no model name; use up to 64 letters, digits and ._-, "
            "a letter or digit first"
        ) from None


def _post(client: httpx.Client | None, url: str, body: dict[str, str]) -> httpx.Response:
    timeout = httpx.Timeout(LOAD_SECONDS, connect=CONNECT_SECONDS)
    if client is not None:
        return client.post(url, json=body, timeout=timeout)
    return httpx.post(url, json=body, timeout=timeout)


def _address(endpoint: str) -> str:
    try:
        url = httpx.URL(endpoint)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        raise FinetuneError(f"endpoint {endpoint!r} is no address; give http://HOST:PORT")
    return endpoint.rstrip("/").removesuffix("/v1")


def _reason(response: httpx.Response) -> str:
    """Return the message of an OpenAI error body, or what there is instead, with what to do."""
    try:
        content = response.json()
    except ValueError:
        content = None
    match content:
        case {"error": {"message": str(message)}}:
            return message
        case {"message": str(message)} | {"detail": str(message)}:
            return message
    if response.status_code in (404, 405):
        return "it has no such route; serve the base model with adapters enabled"
    return f"{response.reason_phrase or 'no reason given'}; look into the endpoint's log"
