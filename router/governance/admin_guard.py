"""Who may administer: `/admin/` and the adapter commands need the administrator's key.

| the router has | `/admin/adapters`, `/v1/(un)load_lora_adapter` | the rest of `/admin/` |
|---|---|---|
| an administrator's key | with it | with it |
| keys of clients only | refused | refused |
| neither | passed on with the client's key: the replicas judge | refused |

The administrator's key ends here: replicas get keys of their own (`api_key_file`).
"""

import hmac

from starlette.types import ASGIApp, Receive, Scope, Send

from router.errors import AdminClosedError, AuthenticationError, ForbiddenError, RouterError
from router.exchange import send_error
from router.governance.keys import bearer, digest_of

_ADMIN = "/admin/"
_ADAPTERS = "/admin/adapters"
_ADAPTER_COMMANDS = frozenset({"/v1/load_lora_adapter", "/v1/unload_lora_adapter"})


class AdminGuard:
    """An ASGI application before another; requests that are no administration pass untouched."""

    def __init__(self, app: ASGIApp, *, admin_digest: bytes | None, has_keys: bool) -> None:
        """Guard with the SHA-256 of the administrator's key, or None if there is none."""
        self._app = app
        self._admin_digest = admin_digest
        self._has_keys = has_keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the inner application, or refuse."""
        path = scope["path"] if scope["type"] == "http" else ""
        is_adapters = path in _ADAPTER_COMMANDS or _is_below(path, _ADAPTERS)
        if not is_adapters and not path.startswith(_ADMIN):
            await self._app(scope, receive, send)
            return
        is_open = is_adapters and not self._has_keys and self._admin_digest is None
        if not is_open:
            try:
                self._check(scope)
            except RouterError as error:
                await send_error(send, error)
                return
            kept = [each for each in scope["headers"] if each[0] != b"authorization"]
            scope = {**scope, "headers": kept}
        await self._app(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        if self._admin_digest is None:
            raise AdminClosedError(scope["path"])
        try:
            key = bearer(scope["headers"])
        except AuthenticationError:
            message = "no key; send the administrator's as Authorization: Bearer KEY"
            raise AuthenticationError(message) from None
        if not hmac.compare_digest(digest_of(key), self._admin_digest):
            raise ForbiddenError("this needs the administrator's key; use it")


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder + "/")
