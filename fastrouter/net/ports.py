"""One address that several processes listen on: a socket for each slot, and which slots the kernel uses.

``SO_REUSEPORT`` gives every process a queue of its own, and closing one of the sockets resets who waits in
its queue. So they belong to who outlives the processes, and a slot without one is left out by a filter.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

from fastrouter.net import filters
from fastrouter.net.listener import BACKLOG


class Ports:
    """The sockets that ``slots`` processes listen on for one host and port."""

    def __init__(self, host: str, port: int, slots: int) -> None:
        """Listen; raises ``OSError`` where the address is taken or not ours."""
        self._groups: list[list[socket.socket]] = []
        try:
            found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            for family, _, _, _, address in dict.fromkeys(found):
                self._groups.append([])
                self._open(self._groups[-1], family, str(address[0]), int(address[1]), slots)
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"<Ports {self.address if self._groups else 'closed'}>"

    @staticmethod
    def _open(group: list[socket.socket], family: int, host: str, port: int, slots: int) -> None:
        for number in range(slots):
            sock = socket.socket(family, socket.SOCK_STREAM)
            group.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            # The first one is bound without it: another router's port must be taken, not shared.
            if number:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind((host, port))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            port = sock.getsockname()[1]
        for sock in group:  # in this order, the kernel numbers them
            sock.listen(BACKLOG)

    @property
    def address(self) -> tuple[str, int]:
        """The address and port that is listened on."""
        host, port = self._groups[0][0].getsockname()[:2]
        return host, port

    def of(self, slot: int) -> list[socket.socket]:
        """Return the sockets of one slot: one for each address that the host has."""
        return [group[slot] for group in self._groups]

    def steer(self, live: Sequence[int]) -> bool:
        """Give new connections to these slots only, at random; return whether the kernel can.

        Where it cannot, those of the other slots wait in their queues.
        """
        try:
            for group in self._groups:
                filters.attach(group[0], filters.SO_ATTACH_REUSEPORT_CBPF, _chooser(live))
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Stop listening, as far as nobody else holds the sockets."""
        for group in self._groups:
            for sock in group:
                sock.close()
        self._groups = []


def _chooser(live: Sequence[int]) -> list[filters.Step]:
    """Return a program that returns one of ``live`` for each connection."""
    steps = [(filters.LOAD_WORD, 0, 0, filters.RANDOM), (filters.MODULO, 0, 0, len(live))]
    for index, slot in enumerate(live[:-1]):
        steps += [(filters.JUMP_IF_EQUAL, 0, 1, index), (filters.RETURN, 0, 0, slot)]
    return [*steps, (filters.RETURN, 0, 0, live[-1])]
