"""One address for several processes: taken or free, one queue a slot, and slots that are left out."""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from fastrouter.net import filters
from fastrouter.net.ports import Ports

linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the filter")


@pytest.fixture
def three() -> Iterator[Ports]:
    made = Ports("127.0.0.1", 0, 3)
    yield made
    made.close()


def shares(made: Ports, connections: int = 90, slots: int = 3) -> list[int]:
    """Connect so often, and return how many came to each slot."""
    counts = [0] * slots
    with ExitStack() as stack:
        for _ in range(connections):
            stack.enter_context(socket.create_connection(made.address))
        for slot in range(slots):
            counts[slot] = waiting(made.of(slot)[0])
    return counts


def waiting(listener: socket.socket) -> int:
    count = 0
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


class TestListening:
    def test_all_slots_share_a_port_that_was_chosen_once(self, three: Ports) -> None:
        names = {three.of(slot)[0].getsockname() for slot in range(3)}
        assert names == {three.address}
        assert three.address[1] > 0
        assert repr(three) == f"<Ports {three.address}>"

    def test_every_connection_comes_to_one_slot(self, three: Ports) -> None:
        assert sum(shares(three)) == 90

    def test_a_port_where_somebody_listens_is_taken(self) -> None:
        with (
            socket.create_server(("127.0.0.1", 0)) as taken,
            pytest.raises(OSError, match="in use") as caught,
        ):
            Ports("127.0.0.1", taken.getsockname()[1], 2)
        assert caught.value.errno == errno.EADDRINUSE

    def test_a_port_of_another_router_is_taken_and_not_shared(self, three: Ports) -> None:
        with pytest.raises(OSError, match="in use"):
            Ports("127.0.0.1", three.address[1], 2)
        assert sum(shares(three)) == 90

    def test_an_address_that_is_not_ours_is_an_error(self) -> None:
        with pytest.raises(OSError, match="assign"):
            Ports("192.0.2.1", 0, 2)

    def test_after_the_end_the_port_is_free(self) -> None:
        made = Ports("127.0.0.1", 0, 2)
        address = made.address
        made.close()
        assert repr(made) == "<Ports closed>"
        socket.create_server(address).close()

    def test_a_slot_has_a_socket_for_each_address_of_the_host(self, monkeypatch: pytest.MonkeyPatch) -> None:
        two = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.2", 0)),
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [*two, two[0]])
        made = Ports("both", 0, 2)
        assert [sock.getsockname()[0] for sock in made.of(1)] == ["127.0.0.1", "127.0.0.2"]
        made.close()

    def test_ipv6_is_ipv6_only(self) -> None:
        made = Ports("::1", 0, 2)
        (sock,) = made.of(0)
        assert sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == 1
        made.close()


@linux
class TestSteering:
    @pytest.mark.parametrize("live", [[0], [1], [0, 2], [1, 2], [0, 1, 2]])
    def test_only_live_slots_get_connections_and_each_a_share(self, three: Ports, live: list[int]) -> None:
        assert three.steer(live)
        counts = shares(three)
        assert sum(counts) == 90
        assert [slot for slot, count in enumerate(counts) if count] == live

    def test_it_can_be_changed_at_any_time(self, three: Ports) -> None:
        three.steer([2])
        assert shares(three) == [0, 0, 90]
        three.steer([0])
        assert shares(three) == [90, 0, 0]

    def test_what_waits_in_a_slot_that_is_left_out_stays_there(self, three: Ports) -> None:
        three.steer([1])
        with socket.create_connection(three.address):
            three.steer([0, 2])
            assert waiting(three.of(1)[0]) == 1


def test_a_kernel_without_the_filter_is_no_error(three: Ports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "SO_ATTACH_REUSEPORT_CBPF", 9999)
    assert not three.steer([0])
    assert sum(shares(three)) == 90
