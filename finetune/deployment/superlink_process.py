"""The SuperLink as it runs in its child process: Flower's own, with a lock on its Control API.

Flower 1.41 serves the Control API (start a run, register a key) at the port that clients reach, and
without a paid plug-in it asks nobody who they are: whoever reaches the port could add a node of his
own, or code for every client to run. Here each call needs the secret of this one server process.
"""

import hmac
import sys
from collections.abc import Sequence
from pathlib import Path

from flwr.common.constant import NOOP_ACCOUNT_NAME, NOOP_FLWR_AID
from flwr.supercore.auth.typing import AccountInfo
from flwr.superlink.auth_plugin import ControlAuthnPlugin
from flwr.superlink.cli import flower_superlink

from finetune.deployment.flower_processes import SECRET_OPTION

_NO_LOGIN = "This SuperLink is started and used by `motley finetune server` alone."


class ServerOnlyPlugin(ControlAuthnPlugin):  # type: ignore[misc]  # Flower is read as untyped
    """Lets those in who know the secret, as the one account of a SuperLink without accounts."""

    def __init__(self, secret: bytes) -> None:
        """Keep the secret."""
        self._secret = secret

    def validate_tokens_in_metadata(
        self, metadata: Sequence[tuple[str, str | bytes]]
    ) -> tuple[bool, AccountInfo | None]:
        """Return whether the bearer token is the secret, and the account."""
        for _, token in metadata:
            given = token.encode() if isinstance(token, str) else token
            if hmac.compare_digest(given, self._secret):
                return True, AccountInfo(flwr_aid=NOOP_FLWR_AID, account_name=NOOP_ACCOUNT_NAME)
        return False, None

    def get_login_details(self) -> None:
        """Offer no login."""

    def get_auth_tokens(self, device_code: str) -> None:
        """Refuse to log anybody in."""
        raise ValueError(_NO_LOGIN)

    def refresh_tokens(
        self, metadata: Sequence[tuple[str, str | bytes]]
    ) -> tuple[None, AccountInfo | None]:
        """Renew nothing: the secret lives as long as the process."""
        return None, None


def main() -> None:
    """Run `flower-superlink` with the words of the command line."""
    secret = Path(sys.argv[sys.argv.index(SECRET_OPTION) + 1]).read_bytes()
    sys.argv[0] = "flower-superlink"
    module = sys.modules["flwr.superlink.cli.flower_superlink"]
    if not hasattr(module, "load_control_authn_plugin"):
        # Rather none than one whose Control API is open to everybody.
        sys.exit("this Flower loads the Control API's plug-in elsewhere; install 'flwr==1.41.*'")
    module.load_control_authn_plugin = lambda: ServerOnlyPlugin(secret)  # type: ignore[attr-defined]
    flower_superlink()
