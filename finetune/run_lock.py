"""Who runs in a run folder, and whether it was asked to stop: the lock file and the request beside it.

A request is a file and no signal: it works for a run in a container, under a service manager or on
another machine that shares the folder, and meets no stranger that was given the process's old
number. It names the run that it is meant for by the token that each run writes into the lock file,
so one that was left by a killed run stops no later one.
"""

import errno
import fcntl
import os
import secrets
import time
from pathlib import Path

from finetune.errors import RunFolderError
from planner.documents import write_atomically

LOCK_FILE = ".lock"
REQUEST_FILE = ".stop"

_TRIES = 10
_PAUSE_SECONDS = 0.02
_LOOKERS_SECONDS = 10.0
"""Whoever asks whether a folder is locked shares its lock for an instant; a run waits for that."""


def take_lock(folder: Path) -> int:
    """Return the descriptor that holds a run folder's lock; it ends with the process at the latest.

    Raises:
        RunFolderError: If a run is going on in it, or it cannot be locked.
    """
    try:
        lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise RunFolderError(
            folder, f"cannot be written ({error.strerror}); choose another with --output"
        ) from None
    try:
        lock_alone(lock)
    except OSError as error:
        os.close(lock)
        if not isinstance(error, BlockingIOError):
            problem = f"cannot be locked ({error.strerror}); choose another with --output"
        else:
            problem = "a run is going on in it; wait for it or choose another with --output"
        raise RunFolderError(folder, problem) from None
    return lock


def lock_alone(descriptor: int) -> None:
    """Take the lock of an open lock file for this process.

    Raises:
        OSError: If it cannot be locked; `BlockingIOError` if another process holds it.
    """
    end = time.monotonic() + _LOOKERS_SECONDS
    while not _is_taken(descriptor, fcntl.LOCK_EX):
        if not _is_taken(descriptor, fcntl.LOCK_SH) or time.monotonic() > end:
            raise BlockingIOError(errno.EWOULDBLOCK, "another process holds the lock")
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        time.sleep(_PAUSE_SECONDS)


def is_locked(folder: Path) -> bool:
    """Return whether a run is going on in a folder.

    Raises:
        OSError: If the lock file cannot be read.
    """
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        return not _is_taken(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def begin_requests(folder: Path, lock: int) -> str:
    """Begin a run: forget requests to earlier ones; return the token of this one.

    Args:
        folder: The run folder.
        lock: Descriptor of its lock file, held.
    """
    # In this order: a request that holds the new token was made after it and is kept.
    (folder / REQUEST_FILE).unlink(missing_ok=True)
    token = secrets.token_hex(16)
    os.pwrite(lock, f"{token}\n".encode(), 0)
    return token


def ask_to_stop(folder: Path) -> None:
    """Ask the run that holds a folder to stop after its round; asking again changes nothing.

    A run that begins in this very moment may not heed it: `is_asked` tells.

    Raises:
        RunFolderError: If the run has written no token into its lock file.
        DocumentError: If the request cannot be written.
    """
    for _ in range(_TRIES):
        token = _word(folder / LOCK_FILE)
        if token is not None:
            write_atomically(folder / REQUEST_FILE, f"{token}\n")
            if is_asked(folder):
                return
        time.sleep(_PAUSE_SECONDS)  # another run begins
    raise RunFolderError(folder, "its run cannot be asked; end it with Ctrl-C, then run it again")


def asked_token(folder: Path) -> str | None:
    """Return the token of the run that was asked to stop, or None."""
    return _word(folder / REQUEST_FILE)


def is_asked(folder: Path) -> bool:
    """Return whether the run that holds the folder, or held it last, was asked to stop."""
    token = asked_token(folder)
    return token is not None and token == _word(folder / LOCK_FILE)


def _is_taken(descriptor: int, kind: int) -> bool:
    """Take a lock if nobody stands in its way; return whether it was taken."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _word(path: Path) -> str | None:
    """Return what a small file says, None where it is not there or empty."""
    try:
        return path.read_text(encoding="ascii").strip() or None
    except (FileNotFoundError, UnicodeDecodeError):
        return None
