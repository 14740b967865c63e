"""What a strict client and a strict sandbox understand of all that the router sent them."""

from __future__ import annotations

from typing import Final, NamedTuple

from tests.fuzz.oracles import END, Head, read_chunked, read_frames, read_head

_CLOSE: Final = 8


class Request(NamedTuple):
    """What of a request decides how its response is read."""

    method: bytes
    http11: bool
    held_back: bool = False
    """Whether its body waits for a 100, and nothing of it has come: nobody knows whether it will."""


class DoubtfulError(Exception):
    """A body may be taken or refused: what comes behind it can be read in two ways, both of them right."""


def requests_of(said: bytes) -> tuple[list[Request], int]:
    """Return the requests that a strict server reads, up to the first that it would refuse.

    And how many of them have come to their end.
    """
    requests: list[Request] = []
    complete = 0
    rest = said.lstrip(b"\r\n")
    while END in rest:
        end = rest.index(END) + len(END)
        try:
            head = read_head(rest[:end])
            method, _, version = head.start.split(b" ")
            http11 = version == b"HTTP/1.1"
            requests.append(Request(method, http11, http11 and _is_held_back(head, rest[end:])))
            behind = _behind(rest[end:], head.body_length() or 0)
        except (AssertionError, ValueError):
            break
        if behind is None:
            break
        complete += 1
        rest = behind.lstrip(b"\r\n")
    return requests, complete


def _is_held_back(head: Head, rest: bytes) -> bool:
    expects = head.values(b"expect") == [b"100-continue"] and head.body_length() not in {None, 0}
    # The health check is answered without a look at what the connection comes to.
    return expects and not rest and b"/healthz" not in head.start


def _behind(rest: bytes, length: int) -> bytes | None:
    """Return what is behind a body; None where it does not end; fail where it is none."""
    if length < 0:
        body = read_chunked(rest)
        if body.state == "doubtful":
            raise DoubtfulError
        assert body.state in {"done", "open"}, body
        return body.excess if body.state == "done" else None
    return rest[length:] if length <= len(rest) else None


def sandbox_understands(sent: bytes, peer: bytes) -> list[Request]:
    """Read what one connection to a sandbox carried: requests, the last one perhaps unfinished.

    Each head names the peer last. The router alone puts it there: bytes of a client's body that were taken
    for a head would show.
    """
    requests: list[Request] = []
    rest: bytes | None = sent
    while rest:
        assert END in rest, rest
        end = rest.index(END) + len(END)
        head = read_head(rest[:end])
        method, target, version = head.start.split(b" ")
        assert version == b"HTTP/1.1"
        assert target.startswith(b"/") or (method, target) == (b"OPTIONS", b"*")
        assert head.fields[-1] == (b"X-Forwarded-For", peer)
        assert len(head.values(b"host")) == 1
        assert not any(name.lower() == b"x-sandbox-id" for name, _ in head.fields)
        requests.append(Request(method, True))
        if head.values(b"upgrade"):
            break  # a tunnel may follow: any bytes
        rest = _behind(rest[end:], head.body_length() or 0)
    return requests


def may_be_followed(answer: bytes, request: Request, *, excess: bool) -> bool:
    """Tell whether the connection that carried this answer may carry another request.

    ``excess``: bytes behind the response may have come too late to be seen.
    """
    status, rest = 100, answer
    head = Head(b"", [])
    while status < 200:
        end = rest.find(END) + len(END)
        try:
            head = read_head(rest[:end])
            status = int(head.start[9:12])
        except (AssertionError, ValueError):
            return False
        rest = rest[end:]
        if status == 101:
            return False
    if b"close" in head.members(b"connection") or not head.start.startswith(b"HTTP/1.1"):
        return False
    behind: bytes | None = rest
    if request.method != b"HEAD" and status not in {204, 304}:
        try:
            length = head.body_length()
            behind = None if length is None else _behind(rest, length)
        except AssertionError:
            return False
    return behind is not None and (excess or not behind)


def client_understands(written: bytes, requests: list[Request]) -> tuple[int, bytes | None]:
    """Read what a client was sent: one response for each request, the last one perhaps unfinished.

    Return how many came whole, and what came through a tunnel, if there was one.
    """
    answered = 0
    rest: bytes | None = written
    while rest:
        assert END in rest, rest
        end = rest.index(END) + len(END)
        head = read_head(rest[:end])
        rest = rest[end:]
        status = int(head.start.split(b" ")[1])
        request = requests[answered] if answered < len(requests) else Request(b"GET", True)
        if status == 101:
            return answered, rest
        if status < 200:
            assert request.http11
            continue
        answered += 1
        # What a client says next would be read as the body that it may never send.
        assert b"close" in head.members(b"connection") or not request.held_back
        assert answered <= len(requests) + 1  # what cannot be read is refused once
        rest = _behind_response(rest, head, request, status)
        if b"close" in head.members(b"connection"):
            assert not rest
    return answered - (rest is None), None


def _behind_response(rest: bytes, head: Head, request: Request, status: int) -> bytes | None:
    length = head.body_length()
    # A request that could not be read has no method for the router.
    own_text = rest.startswith(b'{"detail"') and b"close" in head.members(b"connection")
    if status in {204, 304} or (request.method == b"HEAD" and not own_text):
        return rest
    assert request.http11 or length != -1, "chunks for HTTP/1.0"
    if length is None:
        assert b"close" in head.members(b"connection")
        return None
    return _behind(rest, length)


def behind_switch(answer: bytes) -> bytes | None:
    """Return what a sandbox says behind its 101; None where there is none."""
    rest = answer
    while END in rest:
        end = rest.index(END) + len(END)
        status, rest = rest[9:12], rest[end:]
        if status == b"101":
            return rest
    return None


def tunnel_fits(left: bytes, came: bytes) -> None:
    """What left a tunnel is what came, perhaps up to a frame's end and with one close frame behind it."""
    if came.startswith(left):
        return
    last = read_frames(left)[-1]
    assert (last.opcode, last.end) == (_CLOSE, len(left)), left
    passed = left[: last.start]
    assert came.startswith(passed)
    assert all(frame.opcode != _CLOSE for frame in read_frames(passed))
