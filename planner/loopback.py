"""The loopback interface, which a fresh network namespace (`unshare -n`) has switched off."""

import fcntl
import ipaddress
import logging
import socket
import struct

logger = logging.getLogger(__name__)

_GET_FLAGS = 0x8913
_SET_FLAGS = 0x8914
_IS_UP = 0x1
_REQUEST = struct.Struct("16sh14x")
"""Linux's `ifreq`: interface name and flags. Source: netdevice(7)."""


def is_loopback(host: str) -> bool:
    """Whether an address or host name is this machine and nothing else."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def ensure_loopback() -> None:
    """Switch loopback on where it is off and we may; elsewhere change nothing.

    Where we may not, one line is logged and connections on this machine will fail.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        try:
            answer = fcntl.ioctl(control, _GET_FLAGS, _REQUEST.pack(b"lo", 0))
            flags = _REQUEST.unpack(answer)[1]
            if not flags & _IS_UP:
                fcntl.ioctl(control, _SET_FLAGS, _REQUEST.pack(b"lo", flags | _IS_UP))
        except OSError as error:
            logger.warning("loopback state unknown error=%s", error)
