"""Whatever a client and a sandbox say, each reads whole strict messages, and nothing is left behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from typing import Final

from fastrouter.settings import Settings
from tests.fuzz import inputs
from tests.fuzz.reading import (
    DoubtfulError,
    behind_switch,
    client_understands,
    may_be_followed,
    requests_of,
    sandbox_understands,
    tunnel_fits,
)
from tests.fuzz.stage import Sandbox, Stream, errors_in_the_log
from tests.shim import PEER, Shim

_SETTINGS: Final = Settings(request_id=False, dial_retry=0.0, shutdown_grace=0.0, websocket_max_message=64)
_SEPARATOR: Final = b"\n--\n"
_PAUSE: Final = b"\n++\n"
# Turns of the event loop after which nothing more happens in memory.
_QUIET_TURNS: Final = 25
_MAX_TURNS: Final = 5000


def check(data: bytes) -> None:
    """Carry what the client says, up to the first separator; the sandbox's answers are behind it.

    The client pauses at each ``++`` until nothing moves any more. Where an answer has a ``++``, the sandbox
    says what is behind it at the client's next pause, whether or not anybody waits for it.
    Options: 1, the client leaves at the end; 2, the sandbox closes when it has no more answers; 4, the client
    waits for the router before each of its pieces.
    """
    with errors_in_the_log() as errors, asyncio.Runner() as runner:
        runner.run(_carry(inputs.read(data), errors))
    assert not errors, errors


async def _carry(drawn: inputs.Input, errors: list[str]) -> None:
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(repr(context)))
    said, *answers = drawn.data.split(_SEPARATOR)
    scripts = [[drawn._replace(data=part).pieces() for part in answer.split(_PAUSE)] for answer in answers]
    sandbox = Sandbox(scripts, closes=bool(drawn.options & 2))
    async with Shim(settings=_SETTINGS, backend=sandbox) as shim:
        client = shim.connect()

        def moved() -> int:
            return len(client.unread) + sum(len(stream.sent) for stream in sandbox.streams)

        for part in said.split(_PAUSE):
            for piece in drawn._replace(data=part).pieces():
                client.send(piece)
                if drawn.options & 4:
                    await _turns(3)
            await _quiet(moved)
            sandbox.go_on()
            await _quiet(moved)
            sandbox.part += 1
        over = client.ended
        if drawn.options & 1:
            client.connection.eof_received()
            await _turns(3)
        server = shim.server
    await _turns(_QUIET_TURNS)
    assert not server.connections
    assert asyncio.all_tasks() == {asyncio.current_task()}
    statistics = server.pool.statistics()
    assert statistics["upstream_active"] == 0
    assert statistics["acquired"] == statistics["released"] + statistics["discarded"]
    with suppress(DoubtfulError):
        all_is_understood(said.replace(_PAUSE, b""), client.unread, sandbox, over=over)


def all_is_understood(said: bytes, written: bytes, sandbox: Sandbox, *, over: bool) -> None:
    """Compare what was said with what the router made of it; ``over``: it ended the connection."""
    requests, complete = requests_of(said)
    answered, tunnel = client_understands(written, requests)
    aligned = [was_rightly_reused(stream) for stream in sandbox.streams]
    if not all(aligned):
        return  # a body spelled out what makes the sandbox answer
    if tunnel is not None:
        came = behind_switch(sandbox.last_answer)
        assert came is not None
        tunnel_fits(tunnel, came)
    elif answered < complete and not over:
        # A client that waits, waits for its sandbox. Its request was read, so this is the one to look at.
        assert sandbox.streams
        answer = sandbox.last_answer
        assert not may_be_followed(answer, requests[answered], excess=True), answer


def was_rightly_reused(stream: Stream) -> bool:
    """A request follows another only where the response has ended, with the last byte that came.

    False, unchecked, where the requests are not those that the stream has answered.
    """
    requests = sandbox_understands(stream.sent, PEER[0].encode("ascii"))
    if len(requests) != len(stream.given):
        return False
    for request, (before, after) in zip(requests, pairwise(stream.given), strict=False):
        late = before.in_pieces and before.part == after.part
        assert may_be_followed(before.answer, request, excess=late), before
    return True


async def _quiet(moved: Callable[[], int]) -> None:
    """Wait until nothing moves any more; fail where that never comes."""
    last, same = moved(), 0
    for _ in range(_MAX_TURNS):
        await asyncio.sleep(0)
        last, same = (now := moved()), same + 1 if now == last else 0
        if same == _QUIET_TURNS:
            return
    raise AssertionError("it goes on for ever")


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
