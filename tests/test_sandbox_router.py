"""The seed's test cases and the contract's sections 1 and 4, on the thin shim: in memory, no live cluster."""

from __future__ import annotations

import asyncio
import errno
import time
from dataclasses import replace

import httpcore
import pytest

from fastrouter import config
from fastrouter.errors import DNS_FAILURE, DNS_NOT_FOUND
from fastrouter.net.backend import DialError
from fastrouter.settings import Settings
from tests.shim import BOX, OK, SETTINGS, Dial, MockBackend, Shim, ask, raw_request, refused


class TestHealthCheck:
    async def test_healthz_returns_200_ok(self) -> None:
        backend = MockBackend(OK)
        response = await ask("GET", "/healthz", {}, backend=backend)
        assert response.status == 200
        assert response.json() == {"status": "ok"}
        assert response.headers == {"content-type": "application/json", "content-length": "15"}
        assert backend.dials == []

    async def test_head_has_the_head_of_get_and_no_body(self) -> None:
        response = await ask("HEAD", "/healthz", {})
        assert (response.status, response.body) == (200, b"")
        assert response.headers["content-length"] == "15"

    async def test_it_comes_before_the_checks_of_the_routing_headers(self) -> None:
        headers = [("X-Sandbox-ID", "NO"), ("X-Sandbox-ID", "no"), ("X-Sandbox-Port", "none")]
        assert (await ask("GET", "/healthz", headers)).json() == {"status": "ok"}

    async def test_it_comes_after_the_checks_of_http(self) -> None:
        response = await ask("GET", "/healthz", {"Content-Length": "+1"})
        assert response.error == (400, "Malformed HTTP request.", "bad_request")

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "FOO"])
    async def test_other_methods_are_proxied(self, method: str) -> None:
        backend = MockBackend(OK)
        response = await ask(method, "/healthz", BOX, backend=backend)
        assert response.body == b"ok"
        assert backend.sent.startswith(f"{method} /healthz HTTP/1.1\r\n".encode())

    @pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/metrics", "/health", "/healthz/"])
    async def test_nothing_else_is_served_by_the_router_itself(self, path: str) -> None:
        assert (await refused({}, path=path))[2] == "missing_sandbox_id"

    async def test_the_connection_is_kept_unless_the_client_says_otherwise(self) -> None:
        async with Shim() as shim:
            client = shim.connect()
            for headers in ({}, {"Connection": "close"}):
                client.send(raw_request("GET", "/healthz", headers))
                response = await client.response()
                assert response.json() == {"status": "ok"}
                assert response.headers.get("connection") == headers.get("Connection")
            await client.until_ended()

    @pytest.mark.parametrize(
        "pieces", [[b"\r\n"], [b"\r", b"\n"], [b"\r\n\r\n", b"\r\n"], [b"\r\n" * 100_000]]
    )
    async def test_empty_lines_before_a_request_are_passed_over(self, pieces: list[bytes]) -> None:
        async with Shim() as shim:
            client = shim.connect()
            for piece in [*pieces[:-1], pieces[-1] + raw_request("GET", "/healthz")]:
                client.send(piece)
            assert (await client.response()).status == 200

    async def test_a_request_that_comes_byte_by_byte_is_answered(self) -> None:
        async with Shim() as shim:
            client = shim.connect()
            for byte in b"\r\n" + raw_request("GET", "/healthz"):
                client.send(bytes([byte]))
                await asyncio.sleep(0)
            assert (await client.response()).status == 200


class TestProxyRequestValidation:
    @pytest.mark.parametrize("headers", [{}, {"X-Sandbox-ID": ""}, {"X-Sandbox-Namespace": "team"}])
    async def test_a_missing_sandbox_id_returns_400(self, headers: dict[str, str]) -> None:
        assert await refused(headers) == (400, "X-Sandbox-ID header is required.", "missing_sandbox_id")

    @pytest.mark.parametrize(
        "value", ["has space", "UPPER", "under_score", "a.b", "-a", "a-", "a" * 64, "a/b", "a@b", "é"]
    )
    async def test_an_invalid_sandbox_id_returns_400(self, value: str) -> None:
        expected = (400, "Invalid sandbox ID format.", "invalid_sandbox_id")
        assert await refused({"X-Sandbox-ID": value}) == expected

    @pytest.mark.parametrize(
        "value", ["has space", "special!", "a.b", "UPPER", "-a", "a-", "", "a" * 64, "a;b"]
    )
    async def test_an_invalid_namespace_returns_400(self, value: str) -> None:
        expected = (400, "Invalid namespace format.", "invalid_namespace")
        assert await refused({**BOX, "X-Sandbox-Namespace": value}) == expected

    @pytest.mark.parametrize(
        "value", ["http", "", "0", "65536", "-1", "+80", "8_0", "8 0", "80.0", "0x50", "1e3", "²"]
    )
    async def test_an_invalid_port_returns_400(self, value: str) -> None:
        expected = (400, "Invalid port format.", "invalid_port")
        assert await refused({**BOX, "X-Sandbox-Port": value}) == expected

    async def test_full_width_digits_are_no_port(self) -> None:
        digits = "８０".encode().decode("latin-1")  # noqa: RUF001 - the test is about them
        assert (await refused({**BOX, "X-Sandbox-Port": digits}))[2] == "invalid_port"

    @pytest.mark.parametrize("value", ["my-namespace", "a-b-c", "team-1", "0-0", "a", "a" * 63])
    async def test_well_formed_namespaces_pass(self, value: str) -> None:
        backend = MockBackend(OK)
        response = await ask("GET", "/", {**BOX, "X-Sandbox-Namespace": value}, backend=backend)
        assert response.status == 200
        assert backend.dials[0].host == f"box.{value}.svc.cluster.local"

    @pytest.mark.parametrize(
        "name",
        ["X-Sandbox-ID", "X-Sandbox-Namespace", "X-Sandbox-Port", "X-Sandbox-Pod-IP", "X-Sandbox-Timeout"],
    )
    async def test_a_routing_header_with_two_values_returns_400(self, name: str) -> None:
        headers = [("X-Sandbox-ID", "box"), (name, "1"), (name.lower(), "2")]
        assert await refused(headers) == (400, f"Duplicate {name} header.", "duplicate_header")

    async def test_a_routing_header_with_one_value_said_twice_passes(self) -> None:
        assert (await ask("GET", "/", [*BOX.items(), *BOX.items()])).status == 200


class TestProxyTimeout:
    def effective(self, environ: dict[str, str]) -> Settings:
        self.warnings: list[str] = []
        return config.load({}, environ, self.warnings.append)

    def test_the_default_is_180_seconds(self) -> None:
        assert self.effective({}).proxy_timeout == 180
        assert self.warnings == []

    @pytest.mark.parametrize(("value", "seconds"), [("30", 30), ("0.5", 0.5), ("600", 600)])
    def test_the_environment_overrides_it(self, value: str, seconds: float) -> None:
        assert self.effective({"PROXY_TIMEOUT_SECONDS": value}).proxy_timeout == seconds

    def test_it_reverts_to_the_default_when_unset(self) -> None:
        assert self.effective({"PROXY_TIMEOUT_SECONDS": "30"}).proxy_timeout == 30
        assert self.effective({}).proxy_timeout == 180

    @pytest.mark.parametrize("value", ["", "abc", "0", "-1", "inf", "nan"])
    def test_an_invalid_value_is_a_warning_and_the_default(self, value: str) -> None:
        assert self.effective({"PROXY_TIMEOUT_SECONDS": value}).proxy_timeout == 180
        assert len(self.warnings) == 1
        assert "PROXY_TIMEOUT_SECONDS" in self.warnings[0]

    @pytest.mark.parametrize(("seconds", "connect"), [(180.0, 5.0), (2.0, 2.0)])
    async def test_a_connect_takes_the_timeout_and_at_most_five_seconds(
        self, seconds: float, connect: float
    ) -> None:
        backend = MockBackend(OK)
        async with Shim(settings=replace(SETTINGS, proxy_timeout=seconds), backend=backend) as shim:
            await shim.request("GET", "/", BOX)
        assert backend.dials == [Dial("box.default.svc.cluster.local", 8888, connect)]

    @pytest.mark.parametrize("seconds", [180.0, 2.0])
    async def test_a_silent_sandbox_is_a_504_after_the_timeout_and_not_before(self, seconds: float) -> None:
        backend = MockBackend()
        async with Shim(settings=replace(SETTINGS, proxy_timeout=seconds), backend=backend) as shim:
            client = shim.connect()
            client.send(raw_request("GET", "/", BOX))
            await backend.written.wait()
            sent = time.monotonic()
            client.connection.tick(sent + seconds - 1)
            for _ in range(10):
                await asyncio.sleep(0)
            assert client.unread == b""
            client.connection.tick(sent + seconds)
            error = (504, "Timed out waiting for the backend sandbox: box", "upstream_timeout")
            assert (await client.response()).error == error


class TestProxyRouting:
    @pytest.mark.parametrize(
        ("error", "reason"),
        [
            (httpcore.ConnectError("no route"), "connect_unreachable"),
            (httpcore.ConnectTimeout("no answer"), "connect_timeout"),
            (DialError(DNS_NOT_FOUND, "no such name"), "dns_not_found"),
            (DialError(DNS_FAILURE, "no answer"), "dns_failure"),
        ],
    )
    async def test_an_unreachable_sandbox_returns_502(self, error: Exception, reason: str) -> None:
        response = await ask("GET", "/", BOX, backend=MockBackend(error=error))
        assert response.error == (502, "Could not connect to the backend sandbox: box", reason)

    async def test_a_refused_connection_tells_so_by_the_error_behind_it(self) -> None:
        error = httpcore.ConnectError("refused")
        error.__cause__ = OSError(errno.ECONNREFUSED, "refused")
        response = await ask("POST", "/", BOX, b"body", backend=MockBackend(error=error))
        assert response.error[2] == "connect_refused"

    @pytest.mark.parametrize(
        ("headers", "host", "port"),
        [
            ({"X-Sandbox-ID": "a-1"}, "a-1.default.svc.cluster.local", 8888),
            ({"x-sandbox-id": "a", "x-sandbox-namespace": "team-b"}, "a.team-b.svc.cluster.local", 8888),
            (
                {"X-Sandbox-ID": "a", "X-Sandbox-Namespace": "b", "X-Sandbox-Port": "3000"},
                "a.b.svc.cluster.local",
                3000,
            ),
            ({"X-Sandbox-ID": "a", "X-Sandbox-Port": "0080"}, "a.default.svc.cluster.local", 80),
        ],
    )
    async def test_the_target_is_built_from_id_namespace_and_port(
        self, headers: dict[str, str], host: str, port: int
    ) -> None:
        backend = MockBackend(OK)
        await ask("GET", "/some/path?query=1", headers, backend=backend)
        assert [(dial.host, dial.port) for dial in backend.dials] == [(host, port)]
        assert backend.sent.startswith(f"GET /some/path?query=1 HTTP/1.1\r\nHost: {host}:{port}\r\n".encode())

    async def test_the_cluster_domain_ends_the_name(self) -> None:
        backend = MockBackend(OK)
        async with Shim(settings=replace(SETTINGS, cluster_domain="example.org"), backend=backend) as shim:
            await shim.request("GET", "/", BOX)
        assert backend.dials[0].host == "box.default.svc.example.org"

    async def test_the_original_host_is_not_forwarded(self) -> None:
        backend = MockBackend(OK)
        await ask("GET", "/", BOX, backend=backend)
        lines = backend.sent.split(b"\r\n")
        hosts = [line for line in lines if line.lower().startswith(b"host:")]
        assert hosts == [b"Host: box.default.svc.cluster.local:8888"]
        assert not [line for line in lines if line.lower().startswith(b"x-sandbox-")]

    @pytest.mark.parametrize(
        "path", ["/a%2Fb", "/%2E%2E/x", "//a//b", "/a/../b/./c", "/?", "/?a=%20&b=+&c", "/;p=1", "/*"]
    )
    async def test_the_path_is_forwarded_as_it_arrived(self, path: str) -> None:
        backend = MockBackend(OK)
        await ask("GET", path, BOX, backend=backend)
        assert backend.sent.startswith(f"GET {path} HTTP/1.1\r\n".encode())

    @pytest.mark.parametrize(
        ("method", "target", "line"),
        [
            ("GET", "http://elsewhere.example/x?y", b"GET /x?y HTTP/1.1\r\n"),
            ("GET", "http://elsewhere.example", b"GET / HTTP/1.1\r\n"),
            ("OPTIONS", "*", b"OPTIONS * HTTP/1.1\r\n"),
            ("OPTIONS", "http://elsewhere.example", b"OPTIONS * HTTP/1.1\r\n"),
        ],
    )
    async def test_the_authority_of_a_target_plays_no_part(
        self, method: str, target: str, line: bytes
    ) -> None:
        backend = MockBackend(OK)
        await ask(method, target, BOX, backend=backend)
        assert backend.sent.startswith(line)
        assert backend.dials[0].host == "box.default.svc.cluster.local"

    @pytest.mark.parametrize("target", ["other:443", "/", "http://other/"])
    async def test_connect_is_not_allowed(self, target: str) -> None:
        error = (405, "Method not allowed.", "method_not_allowed")
        assert await refused(BOX, method="CONNECT", path=target) == error

    async def test_what_the_sandbox_sees_of_a_request(self) -> None:
        backend = MockBackend(OK)
        headers = {**BOX, "X-A": "1", "Connection": "X-B", "X-B": "2", "Authorization": "Bearer secret"}
        await ask("POST", "/execute", headers, b"a body", backend=backend)
        assert backend.sent == (
            b"POST /execute HTTP/1.1\r\n"
            b"Host: box.default.svc.cluster.local:8888\r\n"
            b"X-A: 1\r\n"
            b"Content-Length: 6\r\n"
            b"X-Forwarded-Proto: http\r\n"
            b"X-Forwarded-Host: router\r\n"
            b"X-Forwarded-For: 192.0.2.7\r\n"
            b"\r\n"
            b"a body"
        )

    async def test_what_the_client_sees_of_a_response(self) -> None:
        answer = (
            b"HTTP/1.1 418 Short and stout\r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\nKeep-Alive: timeout=5\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n3;x=y\r\ntea\r\n0\r\n\r\n"
        )
        response = await ask("GET", "/", BOX, backend=MockBackend(answer))
        assert (response.status, response.reason, response.body) == (418, "Short and stout", b"tea")
        assert response.fields == (
            ("Set-Cookie", "a=1"),
            ("set-cookie", "b=2"),
            ("Transfer-Encoding", "chunked"),
        )

    async def test_head_reaches_the_sandbox_and_its_length_the_client(self) -> None:
        backend = MockBackend(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        response = await ask("HEAD", "/", BOX, backend=backend)
        assert (response.headers["content-length"], response.body) == ("1000", b"")
        assert backend.sent.startswith(b"HEAD / HTTP/1.1\r\n")

    async def test_requests_of_one_connection_are_answered_in_order(self) -> None:
        answers = [b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number for number in range(5)]
        backend = MockBackend(*answers)
        async with Shim(backend=backend) as shim:
            client = shim.connect()
            client.send(b"".join(raw_request("GET", f"/{number}", BOX) for number in range(5)))
            assert [(await client.response()).body for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
            assert len(backend.dials) == 1
            assert shim.server.statistics()["reused"] == 4

    async def test_sandboxes_do_not_share_a_connection(self) -> None:
        backend = MockBackend(OK)
        async with Shim(backend=backend) as shim:
            for name in ("a", "b", "a", "b"):
                await shim.request("GET", "/", {"X-Sandbox-ID": name})
        hosts = [dial.host for dial in backend.dials]
        assert hosts == ["a.default.svc.cluster.local", "b.default.svc.cluster.local"]
