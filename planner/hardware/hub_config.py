"""A model's config.json from the hub, where it is on no disk and in no catalogue."""

import json
import os
from typing import Any

import httpx

from planner.errors import HubError

TIMEOUT_SECONDS = 10.0
DEFAULT_ENDPOINT = "https://huggingface.co"


def fetch_config(hub_id: str) -> dict[str, Any] | None:
    """Return the model's config.json, or nothing where the hub has no such model.

    The hub's own variables hold: HF_ENDPOINT, HF_TOKEN, and HF_HUB_OFFLINE, under which nothing is
    fetched.

    Raises:
        HubError: If the hub cannot be asked, or answers anything but a config.json.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "TRUE", "YES", "ON"):
        return None
    url = f"{os.environ.get('HF_ENDPOINT') or DEFAULT_ENDPOINT}/{hub_id}/resolve/main/config.json"
    token = os.environ.get("HF_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        answer = httpx.get(url, headers=headers, timeout=TIMEOUT_SECONDS, follow_redirects=True)
    except httpx.HTTPError as error:
        what = f"{hub_id} is not known here, and the hub cannot be reached ({error})"
        raise HubError(f"{what}; name a folder with its config.json") from None
    if answer.status_code == httpx.codes.NOT_FOUND:
        return None
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        raise HubError(f"the hub refuses {hub_id} ({answer.status_code}); set HF_TOKEN to a token")
    return _read(hub_id, answer)


def _read(hub_id: str, answer: httpx.Response) -> dict[str, Any]:
    try:
        content = json.loads(answer.text) if answer.is_success else None
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise HubError(
            f"the hub answers {answer.status_code} and no config.json for {hub_id}; try again, or "
            "name a folder with its config.json"
        )
    return content
