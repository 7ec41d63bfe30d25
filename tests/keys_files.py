"""Files of keys for routers under test."""

import hashlib
import json
from pathlib import Path

ADMIN = "admin-key-1"


def write_governance(folder: Path, keys: dict[str, dict[str, object]]) -> dict[str, object]:
    """Write a file of keys and an administrator's; return the settings that name them.

    Args:
        folder: For all files.
        keys: Key to its entry, without the digest.
    """
    entries = [
        {"sha256": hashlib.sha256(key.encode()).hexdigest(), **entry} for key, entry in keys.items()
    ]
    (folder / "keys.json").write_text(json.dumps({"keys": entries}))
    (folder / "admin.key").write_text(ADMIN)
    return {
        "keys_file": str(folder / "keys.json"),
        "admin_key_file": str(folder / "admin.key"),
        "usage_file": str(folder / "usage.sqlite"),
    }


def bearer(key: str) -> dict[str, str]:
    """Return the header that carries a key."""
    return {"authorization": f"Bearer {key}"}
