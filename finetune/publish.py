"""Handing a finished adapter to a serving endpoint: by its path, or sent to another machine."""

import contextlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx
from pydantic import TypeAdapter, ValidationError

from finetune.adapters import read_adapter
from finetune.config import Name
from finetune.errors import EndpointError, FinetuneError
from finetune.upload import LIST_PATH, Watcher, check_size, upload
from planner.loopback import is_loopback

CONNECT_SECONDS = 5.0
LOAD_SECONDS = 120.0
"""Longest an endpoint may take to load the adapter."""

_TIMEOUT = httpx.Timeout(LOAD_SECONDS, connect=CONNECT_SECONDS)


def _unwatched(_sent: int, _total: int) -> None:
    """Watch nothing."""


def publish(
    folder: Path,
    *,
    endpoint: str,
    name: str,
    is_sent: bool | None = None,
    model: str | None = None,
    key: str | None = None,
    watch: Watcher = _unwatched,
    client: httpx.Client | None = None,
) -> str:
    """Load an adapter into a running endpoint and return the model name it answers under.

    Args:
        folder: An adapter folder.
        endpoint: Address such as `http://127.0.0.1:8000`; an ending `/v1` is taken off.
        name: Model name for the adapter.
        is_sent: Whether the files are sent; otherwise the endpoint reads them by their absolute
            path, and the name must be free. None: sent to any machine but this one.
        model: Base model it is for, where a router serves several.
        key: API key; it goes into the header `Authorization` and nowhere else.
        watch: Told how much has been sent.
        client: Sends the requests; a new one by default.

    Raises:
        AdapterFolderError: If the folder is no complete adapter.
        EndpointError: If the endpoint cannot be reached or does not take the adapter; behind a
            router, if any replica did not, though the others may have it.
        FinetuneError: If `endpoint` is no HTTP address, or `name` no name.
    """
    read_adapter(folder)
    _check_name(name)
    address = address_of(endpoint)
    if is_sent is None:
        is_sent = not is_loopback(httpx.URL(address).host)
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    params = {} if model is None else {"model": model}
    with _told(address), _opened(client, headers, params) as used:
        if is_sent:
            _check_upload(used, address, folder)
            url = f"{address}{LIST_PATH}/{name}"
            response = upload(used, url, folder, watch=watch, connect_seconds=CONNECT_SECONDS)
        else:
            body = {"lora_name": name, "lora_path": str(folder.resolve())}
            url = f"{address}/v1/load_lora_adapter"
            response = used.post(url, json=body, timeout=_TIMEOUT)
    _check_success(response, f"loading {name!r} into {address}")
    return name


def _check_upload(client: httpx.Client, address: str, folder: Path) -> None:
    """Ask, before gigabytes are sent, whether they are taken from this client."""
    listing = client.get(f"{address}{LIST_PATH}", timeout=_TIMEOUT)
    if listing.status_code in (404, 405):
        raise EndpointError(
            f"{address} takes no uploads (HTTP {listing.status_code}); where it can read this "
            "folder give --by-path"
        )
    _check_success(listing, f"asking {address} whether it takes uploads")
    check_size(folder, _content(listing), address=address)


@contextmanager
def _opened(
    client: httpx.Client | None, headers: Mapping[str, str], params: Mapping[str, str]
) -> Iterator[httpx.Client]:
    """Yield a client that adds these to every request."""
    with contextlib.nullcontext(client) if client is not None else httpx.Client() as used:
        used.headers.update(headers)
        used.params = used.params.merge(params)
        yield used


@contextmanager
def _told(address: str) -> Iterator[None]:
    """Tell in one line that an endpoint cannot be spoken to."""
    try:
        yield
    except httpx.TimeoutException:
        raise EndpointError(f"{address}: no answer in time; check that it is up") from None
    except httpx.TransportError as error:
        raise EndpointError(
            f"{address}: cannot be reached ({error}); check that it is up"
        ) from None


def _check_success(response: httpx.Response, doing: str) -> None:
    if not response.is_success:
        raise EndpointError(f"{doing} failed (HTTP {response.status_code}): {_reason(response)}")


def _check_name(name: str) -> None:
    try:
        TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise FinetuneError(
            f"name {name[:80]!r} is no model name; use up to 64 letters, digits and ._-, "
            "a letter or digit first"
        ) from None


def address_of(endpoint: str) -> str:
    """Return an endpoint's address as requests to it begin.

    Raises:
        FinetuneError: If it is no HTTP address.
    """
    try:
        url = httpx.URL(endpoint)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if url.scheme not in ("http", "https") or not url.host:
        raise FinetuneError(f"endpoint {endpoint!r} is no address; give http://HOST:PORT")
    return endpoint.rstrip("/").removesuffix("/v1")


def _content(response: httpx.Response) -> object:
    try:
        return response.json()
    except ValueError:
        return None


def _reason(response: httpx.Response) -> str:
    """Return the message of an OpenAI error body, or what there is instead, with what to do."""
    remedy = "; give a key with --api-key-file or MOTLEY_API_KEY"
    remedy = remedy if response.status_code in (401, 403) else ""
    match _content(response):
        case {"error": {"message": str(message)}}:
            return message + remedy
        case {"message": str(message)} | {"detail": str(message)}:
            return message + remedy
    if response.status_code in (404, 405):
        return "it has no such route; serve the base model with adapters enabled"
    return f"{response.reason_phrase or 'no reason given'}; look into the endpoint's log"
