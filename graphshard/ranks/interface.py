"""The network interface by which ranks on several machines meet: that of the way to rank 0.

gloo by itself takes the address that the machine's own name resolves to. Where that is a loopback one, as many
distributions write it to /etc/hosts, no other machine can reach it, and the job waits until it fails.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from collections.abc import MutableMapping
from contextlib import suppress

from graphshard.errors import GraphshardError

__all__ = ["choose_interface"]

_VARIABLE = "GLOO_SOCKET_IFNAME"
_ADDRESS_OF = 0x8915
"""``SIOCGIFADDR`` of <linux/sockios.h>, which Python has no name for."""


def choose_interface(environ: MutableMapping[str, str] | None = None) -> None:
    """Set ``GLOO_SOCKET_IFNAME`` to the interface that leads to ``MASTER_ADDR``, for ranks on several machines.

    Does nothing where it is set, where all ranks are on this machine, where torchrun says nothing of them, and where
    interfaces cannot be listed (not Linux).

    Args:
        environ: this process's environment by default.

    Raises:
        GraphshardError: the way to rank 0 leads to this machine alone, or there is none.
    """
    given = os.environ if environ is None else environ
    address, here, all_ranks = (given.get(n) for n in ("MASTER_ADDR", "LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    if _VARIABLE in given or address is None or here is None or here == all_ranks:
        return
    own = _own_address(address)
    if own.startswith("127."):
        raise GraphshardError(
            f"this machine knows rank 0's address {address!r} as {own}, which no other machine can reach: start "
            f"torchrun with an address of the network (--master-addr), or set {_VARIABLE} to the interface by which "
            "the machines reach each other (`ip addr` lists them)"
        )
    if (name := _interface_of(own)) is not None:
        given[_VARIABLE] = name


def _own_address(address: str) -> str:
    """This machine's IPv4 address on the way to another; nothing is sent."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((address, 9))
            return str(probe.getsockname()[0])
    except OSError as error:
        raise GraphshardError(
            f"there is no way to rank 0's address {address!r}: {error}. Start torchrun with one that this machine can "
            f"reach, or set {_VARIABLE}"
        ) from error


def _interface_of(address: str) -> str | None:
    """The name of the interface that has this IPv4 address."""
    try:
        from fcntl import ioctl  # of POSIX
    except ImportError:
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        for _, name in socket.if_nameindex():
            request = array.array("b", struct.pack("256s", name.encode()[:15]))
            with suppress(OSError):  # it has no IPv4 address
                ioctl(any_socket.fileno(), _ADDRESS_OF, request)
                if socket.inet_ntoa(request.tobytes()[20:24]) == address:
                    return name
    return None
