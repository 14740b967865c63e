"""The channel between the parent and a worker, and settings that cross it."""

from __future__ import annotations

import asyncio
import dataclasses
import ipaddress
import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from fastrouter import control
from fastrouter.control import Channel
from fastrouter.settings import Settings


@pytest.fixture
async def ends() -> AsyncIterator[tuple[Channel, Channel]]:
    one, other = socket.socketpair()
    channels = await Channel.over(one), await Channel.over(other)
    yield channels
    for channel in channels:
        await channel.close()


Ends = tuple[Channel, Channel]


class TestChannel:
    async def test_messages_come_whole_and_in_order(self, ends: Ends) -> None:
        one, other = ends
        sent: list[dict[str, Any]] = [{"n": n, "text": "ä\n" * n * 1000} for n in range(60)]
        for message in sent:
            one.send(message)
        assert [await other.receive() for _ in sent] == sent

    async def test_both_sides_talk(self, ends: Ends) -> None:
        one, other = ends
        one.send({"ask": 1})
        other.send({"answer": 2})
        assert await other.receive() == {"ask": 1}
        assert await one.receive() == {"answer": 2}

    async def test_what_was_sent_before_the_end_still_comes(self, ends: Ends) -> None:
        one, other = ends
        one.send({"last": "words" * 100_000})
        closing = asyncio.create_task(one.close())
        assert await other.receive() == {"last": "words" * 100_000}
        await closing
        assert await other.receive() is None

    async def test_half_a_message_of_who_died_is_no_message(self) -> None:
        one, other = socket.socketpair()
        channel = await Channel.over(other)
        one.send(b'{"ask": "snap')
        one.close()
        assert await channel.receive() is None
        await channel.close()

    async def test_to_who_has_ended_nothing_is_sent_and_nothing_fails(self, ends: Ends) -> None:
        one, other = ends
        await other.close()
        assert await one.receive() is None
        for _ in range(10):
            one.send({"ask": "snapshot"})
            await asyncio.sleep(0)


def other_than(value: object) -> object:
    """Return a value of the same type that is not the default."""
    match value:
        case bool():
            return not value
        case int() | float():
            return value + 1
        case str():
            return value + "x"
        case tuple():
            return (*value, "x")
        case _:
            return 7


class TestSettings:
    def test_every_setting_crosses_as_json(self) -> None:
        defaults = Settings()
        changed = {
            each.name: other_than(getattr(defaults, each.name)) for each in dataclasses.fields(Settings)
        }
        changed["trusted_proxies"] = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))
        changed["allow_unauthenticated"] = False
        settings = Settings(**changed)  # type: ignore[arg-type]
        assert all(getattr(settings, name) != getattr(defaults, name) for name in changed)
        assert control.unpacked(json.loads(json.dumps(control.packed(settings)))) == settings

    def test_defaults_and_none_cross_too(self) -> None:
        settings = Settings(health_port=None, allow_unauthenticated=None)
        assert control.unpacked(json.loads(json.dumps(control.packed(settings)))) == settings

    def test_the_token_crosses(self) -> None:
        assert control.packed(Settings(auth_token="secret"))["auth_token"] == "secret"  # noqa: S105 - made up
