"""What the reference router gets wrong, each done right: one test per defect."""

from __future__ import annotations

import gzip

import pytest

from tests.support import Visit, always, eventually, ok, request, stage


async def test_no_cookie_jar_carries_a_cookie_from_one_sandbox_to_another() -> None:
    async with stage() as router:
        one = await router.sandbox(always(ok(b"1", b"Set-Cookie: session=one; Path=/")), "one")
        two = await router.sandbox(always(ok(b"2")), "two")
        client = await router.client()
        for box, name in ((one, b"one"), (two, b"two"), (one, b"one")):
            await client.send(request(box, name=name))
            await client.response()
        assert b"ookie" not in one.received + two.received


async def test_compressed_bodies_pass_byte_for_byte() -> None:
    packed = gzip.compress(b"x" * 10_000)
    async with stage() as router:
        box = await router.sandbox(always(ok(packed, b"Content-Encoding: gzip")))
        client = await router.client()
        await client.send(request(box, b"Accept-Encoding: gzip"))
        head, body = await client.response()
        assert b"Content-Encoding: gzip" in head
        assert body == packed
        await client.send(request(box, b"Content-Encoding: gzip", method=b"POST", body=packed))
        await client.response()
        assert box.received.endswith(packed)


async def test_several_set_cookie_stay_several() -> None:
    cookies = (b"Set-Cookie: a=1", b"Set-Cookie: b=2", b"set-cookie: a=3")
    async with stage() as router:
        client = await router.client()
        await client.send(request(await router.sandbox(always(ok(b"", *cookies)))))
        head, _ = await client.response()
        assert b"\r\n".join(cookies) in head


async def test_duplicate_request_headers_are_kept() -> None:
    fields = (b"X-Tag: 1", b"Accept: a/b", b"X-Tag: 2", b"x-tag: 1")
    async with stage() as router:
        box = await router.sandbox(always(ok()))
        client = await router.client()
        await client.send(request(box, *fields))
        await client.response()
        assert b"\r\n".join(fields) in box.received


@pytest.mark.parametrize("method", [b"OPTIONS", b"PROPFIND", b"PURGE", b"get"])
async def test_any_method_reaches_the_sandbox(method: bytes) -> None:
    async with stage() as router:
        box = await router.sandbox(always(ok(b"done")))
        client = await router.client()
        await client.send(request(box, method=method))
        assert (await client.response())[1] == b"done"
        assert box.received.startswith(method + b" / HTTP/1.1\r\n")


async def test_head_reaches_the_sandbox() -> None:
    async with stage() as router:
        box = await router.sandbox(always(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"))
        client = await router.client()
        for _ in range(2):
            await client.send(request(box, method=b"HEAD"))
            assert b"\r\nContent-Length: 5\r\n" in await client.head()
        assert len(box.visits) == 1


@pytest.mark.parametrize("path", [b"/docs", b"/redoc", b"/openapi.json", b"/", b"/metrics"])
async def test_pages_of_a_web_framework_belong_to_the_sandbox(path: bytes) -> None:
    async with stage() as router:
        client = await router.client()
        await client.send(request(await router.sandbox(always(ok(b"the sandbox's"))), target=path))
        assert (await client.response())[1] == b"the sandbox's"


async def test_a_get_without_body_gets_no_framing_header() -> None:
    async with stage() as router:
        box = await router.sandbox(always(ok()))
        client = await router.client()
        await client.send(request(box))
        await client.response()
        assert b"content-length" not in box.received.lower()
        assert b"transfer-encoding" not in box.received.lower()


async def test_a_client_that_leaves_before_the_head_ends_the_sandboxs_work_at_once() -> None:
    async def work(visit: Visit) -> None:
        await visit.head()
        await visit.gone()

    async with stage() as router:
        box = await router.sandbox(work)
        client = await router.client()
        await client.send(request(box))
        await eventually(lambda: bool(box.received))
        client.close()
        await eventually(lambda: box.visits[0].ended)


async def test_a_stale_kept_connection_is_no_500() -> None:
    async def once(visit: Visit) -> None:
        await visit.head()
        await visit.send(ok(b"%d" % len(box.visits)))
        visit.close()

    async with stage() as router:
        box = await router.sandbox(once)
        client = await router.client()
        for number in (b"1", b"2", b"3"):
            await client.send(request(box))
            assert (await client.response())[1] == number


async def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)  # an exception for every name would hide the defect
    async with stage() as router:
        client = await router.client()
        await client.send(request(await router.sandbox(always(ok(b"direct")))))
        assert (await client.response())[1] == b"direct"


async def test_one_access_line_per_request() -> None:
    async with stage() as router:
        box = await router.sandbox(always(ok()))
        client = await router.client()
        for name in (b"box", b"NO", b"box"):
            await client.send(request(box, name=name))
            await client.response()
        # A line comes right after its answer: the last one may be a step behind what the client has read.
        await eventually(lambda: router.server.metrics.requests == 3)
        assert [line["status"] for line in router.access_lines()] == [200, 400, 200]
