"""What an attacker tries against the router's decisions: who may use it, where it dials, what it switches."""

from __future__ import annotations

import io
import json
import logging
from dataclasses import replace

import pytest

from fastrouter.config import load
from fastrouter.settings import Settings
from fastrouter.telemetry.logs import Formatter
from tests.attacking import ALLOWED, OPEN, TOKEN, UPGRADE, raw, status_and_sent
from tests.shim import BOX, OK, MockBackend, Shim, raw_request
from tests.support import always, ok, request, stage


class TestToken:
    @pytest.mark.parametrize(
        "line",
        [
            b"Authorization: Bearer\tsecret",
            b"Authorization: Bearer\xa0secret",
            b"Authorization: Bearer secret\xa0",
            b"Authorization: Bearer \xc2\xa0secret",
            b"Authorization: Bearer secre",
            b"Authorization: Bearer ",
            b"Authorization: Bearer",
            b"Authorization: Bearer SECRET",
            b'Authorization: Bearer "secret"',
            b"Authorization: Bearer secret,",
            b"Authorization: Bearer secret, Bearer secret",
            b"Authorization: Bearer secret secret",
            b"Authorization: Bearer Bearer secret",
            b"Authorization: Basic Bearer secret",
            b"Authorization: Bearersecret",
            b"Authorization: Bearer=secret",
            b"Authorization: Bearer s%65cret",
            b"Authorization: ***",
            b"Authorization_: Bearer secret",
            b"X-Authorization: Bearer secret",
            b"Proxy-Authorization: Bearer secret",
            b"X-Forwarded-Authorization: Bearer secret",
            b"Cookie: Authorization=Bearer secret",
            b"Authorization: Bearer x\r\nAuthorization: Bearer secret",
            b"Authorization: Bearer secret\r\nAUTHORIZATION: Bearer x",
            b"Authorization:\r\nAuthorization: Bearer secret",
        ],
    )
    async def test_what_only_looks_like_the_token_is_a_401(self, line: bytes) -> None:
        assert await status_and_sent(raw(line), TOKEN) == (401, b"")

    @pytest.mark.parametrize(
        "line",
        [
            b"Authorization : Bearer secret",
            b" Authorization: Bearer secret",
            b"Authorization:\r\n Bearer secret",
            b"Authorization: Bearer\x0bsecret",
            b"Authorization: Bearer secret\x00",
            b"Authorization: Bearer secret\rX: y",
            b"Authorization: Bearer secret\nX: y",
            b"\xc1uthorization: Bearer secret",
        ],
    )
    async def test_a_field_that_others_read_otherwise_is_a_400(self, line: bytes) -> None:
        assert await status_and_sent(raw(line), TOKEN) == (400, b"")

    @pytest.mark.parametrize("options", [b"Authorization", b"X-Sandbox-ID, authorization, close", b"Upgrade"])
    async def test_connection_options_neither_help_nor_hide_the_token(self, options: bytes) -> None:
        line = b"Connection: " + options
        assert (await status_and_sent(raw(line), TOKEN))[0] == 401
        status, sent = await status_and_sent(raw(line, ALLOWED), TOKEN)
        assert status == 200
        assert b"secret" not in sent

    async def test_a_request_behind_an_allowed_one_is_not_allowed(self) -> None:
        backend = MockBackend(OK)
        async with Shim(settings=TOKEN, backend=backend) as shim:
            client = shim.connect()
            client.send(raw(ALLOWED, target=b"/1") + raw(target=b"/2") + raw(ALLOWED, target=b"/3"))
            assert [(await client.response()).status for _ in range(3)] == [200, 401, 200]
        assert b"/2" not in backend.sent

    @pytest.mark.parametrize("target", [b"/", b"/healthz"])
    async def test_a_request_within_a_body_is_none(self, target: bytes) -> None:
        backend = MockBackend(OK)
        inner = raw(ALLOWED, target=b"/inner")
        async with Shim(settings=TOKEN, backend=backend) as shim:
            client = shim.connect()
            client.send(raw(b"Content-Length: %d" % len(inner), target=target, behind=inner))
            assert (await client.response()).status == (401 if target == b"/" else 200)
            client.send(raw(target=b"/next"))
            assert (await client.response()).status == 401
        assert backend.dials == []

    async def test_a_token_that_is_no_utf_8_is_compared_byte_by_byte(self) -> None:
        environ = {
            "ROUTER_AUTH_TOKEN": b"s\xffcret".decode("utf-8", "surrogateescape"),
            "SHUTDOWN_GRACE_SECONDS": "0",
        }
        settings = load({}, environ, print)
        assert (await status_and_sent(raw(b"Authorization: Bearer s\xffcret"), settings))[0] == 200
        assert await status_and_sent(raw(b"Authorization: Bearer s\xfecret"), settings) == (401, b"")

    @pytest.mark.parametrize(
        "target",
        [
            b"//healthz", b"/healthz/", b"/healthz/.", b"/x/../healthz", b"/./healthz", b"/%68ealthz",
            b"/healthz%3f", b"/healthz;x=1", b"/healthz%00", b"/HEALTHZ", b"/healthz#", b"/healthz%2e",
            b"http://router//healthz", b"http://router/x?/healthz", b"http://router?/healthz", b"/?/healthz",
            b"/healthz&x",
        ],
    )  # fmt: skip
    async def test_what_only_looks_like_healthz_needs_the_token(self, target: bytes) -> None:
        assert await status_and_sent(raw(target=target), TOKEN) == (401, b"")

    @pytest.mark.parametrize("target", [b"/healthz", b"/healthz?/../x", b"http://elsewhere/healthz"])
    async def test_healthz_is_answered_here_and_nothing_reaches_a_sandbox(self, target: bytes) -> None:
        assert await status_and_sent(raw(*UPGRADE, target=target), TOKEN) == (200, b"")

    async def test_a_refused_upgrade_leaves_requests_behind_it_to_be_judged(self) -> None:
        async with stage(auth_token="secret") as router:
            box = await router.sandbox(always(ok()))
            client = await router.client()
            await client.send(request(box, ALLOWED, *UPGRADE) + request(box, target=b"/admin"))
            assert (await client.response())[0].startswith(b"HTTP/1.1 200 ")
            assert (await client.error())[0] == 401
            assert b"/admin" not in box.received

    async def test_no_trailer_is_a_credential_and_none_is_passed_on(self) -> None:
        backend = MockBackend(OK)
        body = b"1\r\nx\r\n0\r\n" + ALLOWED + b"\r\nX-Sandbox-ID: other\r\n\r\n"
        async with Shim(settings=TOKEN, backend=backend) as shim:
            client = shim.connect()
            client.send(raw(b"Transfer-Encoding: chunked", behind=body))
            assert (await client.response()).status == 401
            client.send(raw(b"Transfer-Encoding: chunked", ALLOWED, behind=body))
            assert (await client.response()).status == 200
        assert b"secret" not in backend.sent
        assert b"other" not in backend.sent


class TestAddress:
    @pytest.mark.parametrize(
        "value",
        [
            b"::ffff:0:127.0.0.1",
            b"::ffff:0:a9fe:a9fe",
            b"64:ff9b:1::127.0.0.1",
            b"64:ff9b:1:0:0:0:a9fe:a9fe",
            b"0000:0000:0000:0000:0000:FFFF:A9FE:A9FE",
            b"[0::1]",
            b"febf::1",
            b"127.255.255.254",
        ],
    )
    async def test_an_address_in_disguise_is_refused(self, value: bytes) -> None:
        assert await status_and_sent(raw(b"X-Sandbox-Pod-IP: " + value), OPEN) == (400, b"")

    @pytest.mark.parametrize(
        "lines",
        [
            (b"X-Sandbox-Pod-IP: 127.0.0.1", b"Connection: X-Sandbox-Pod-IP"),
            (b"X-Sandbox-Pod-IP: 10.1.2.3", b"X-Sandbox-Pod-IP: 127.0.0.1"),
            (b"X-Sandbox-Pod-IP: 127.0.0.1", b"X-Sandbox-Pod-IP: 10.1.2.3"),
            (b"X-Sandbox-Pod-IP: fd00::1", b"x-sandbox-pod-ip: FD00::1"),
            (b"X-Sandbox-Pod-IP: 10.1.2.3@127.0.0.1",),
            (b"X-Sandbox-Pod-IP: 10.1.2.3#",),
            (b"X-Sandbox-Pod-IP: 10.1.2.3.",),
            (b"X-Sandbox-Pod-IP: localhost",),
            (b"X-Sandbox-Pod-IP: 127.1",),
            (b"X-Sandbox-Pod-IP: 0177.0.0.1",),
            (b"X-Sandbox-Pod-IP: 2130706433",),
            (b"X-Sandbox-Pod-IP: 0x7f000001",),
            (b"X-Sandbox-Pod-IP: \xb9\xb2\xb3.0.0.1",),
        ],
    )
    async def test_no_trick_of_fields_or_forms_gets_past_the_check(self, lines: tuple[bytes, ...]) -> None:
        assert await status_and_sent(raw(*lines), OPEN) == (400, b"")

    @pytest.mark.parametrize(
        "line",
        [b"X_Sandbox_Pod_IP: 10.1.2.3", b"X-Sandbox-Pod-IP-: 10.1.2.3", b"X-Forwarded-Host: 10.1.2.3:80"],
    )
    async def test_no_other_field_names_the_address(self, line: bytes) -> None:
        backend = MockBackend(OK)
        async with Shim(settings=OPEN, backend=backend) as shim:
            client = shim.connect()
            client.send(raw(line, target=b"http://10.1.2.3/path"))
            assert (await client.response()).status == 200
        assert [dial.host for dial in backend.dials] == ["box.default.svc.cluster.local"]

    @pytest.mark.parametrize("value", [b"1e-9", b"0x10", b"1_0", b"\xb2", b"0." + b"0" * 400 + b"1", b"5,5"])
    async def test_no_trick_of_a_timeout_is_more_or_less_than_the_default(self, value: bytes) -> None:
        backend = MockBackend(OK)
        async with Shim(settings=OPEN, backend=backend) as shim:
            client = shim.connect()
            client.send(raw(b"X-Sandbox-Timeout: " + value))
            assert (await client.response()).status == 200
        assert [dial.timeout for dial in backend.dials] == [5.0]


class TestLogs:
    @pytest.mark.parametrize("settings", [TOKEN, replace(TOKEN, auth_header="X-Router-Authorization")])
    def test_the_token_is_in_no_text_that_is_made_of_the_settings(self, settings: Settings) -> None:
        assert "secret" not in repr(settings)
        assert "secret" not in str(settings)
        assert "secret" not in json.dumps(settings.shown(), default=str)

    async def test_the_token_is_in_no_line_and_no_name_of_the_router(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with stage(auth_token="secret") as router:
            box = await router.sandbox(always(ok()))
            client = await router.client()
            for field in (ALLOWED, ALLOWED + b"x"):
                await client.send(request(box, field, b"X-Sandbox-Timeout: none"))
                await client.response()
            names = [repr(each) for each in (router.server, *router.server.connections, router.server.pool)]
            lines = router.access_lines()
        assert [line["status"] for line in lines] == [200, 401]
        for text in (json.dumps(lines), json.dumps(router.server.statistics()), *names, caplog.text):
            assert "secret" not in text

    async def test_a_timeout_forges_no_line_and_a_flood_is_one(self) -> None:
        stream = io.StringIO()
        handler = logging.StreamHandler(stream)
        handler.setFormatter(Formatter())
        logger = logging.getLogger("fastrouter")
        logger.addHandler(handler)
        value = b'1","level":"error","x":"\x85\xe2\x80\xa8\t' + b"9" * 200
        try:
            async with Shim(settings=OPEN) as shim:
                client = shim.connect()
                for number in range(50):
                    client.send(raw(b"X-Sandbox-Timeout: %d" % number + value))
                    assert (await client.response()).status == 200
        finally:
            logger.removeHandler(handler)
        lines = [json.loads(line) for line in stream.getvalue().split("\n")[:-1]]
        assert stream.getvalue().isascii()
        assert 1 <= len(lines) <= 2  # one a second
        assert lines[0]["level"] == "warning"
        assert len(lines[0]["value"]) == 100

    async def test_strangers_write_no_warnings(self, caplog: pytest.LogCaptureFixture) -> None:
        async with Shim(settings=TOKEN) as shim:
            response = await shim.request("GET", "/", {**BOX, "X-Sandbox-Timeout": "none"})
        assert response.status == 401
        assert caplog.records == []

    async def test_a_path_forges_no_access_line(self) -> None:
        path = b'/"},{"status":200,"x":"\\"\\u000a%0a%0d\\n'
        async with stage() as router:
            box = await router.sandbox(always(ok()))
            client = await router.client()
            await client.send(request(box, target=path))
            await client.response()
            (line,) = router.access_lines()
        assert line["path"] == path.decode()
        assert line["status"] == 200


@pytest.mark.parametrize("name", ["Host", "X-Sandbox-ID", "Cookie", "X-Forwarded-For"])
async def test_no_choice_of_the_tokens_header_opens_the_router(name: str) -> None:
    backend = MockBackend(OK)
    async with Shim(settings=replace(TOKEN, auth_header=name), backend=backend) as shim:
        client = shim.connect()
        client.send(raw_request("GET", "/", {**BOX, "Authorization": "Bearer secret"}))
        assert (await client.response()).status == 401
    assert backend.dials == []
