"""The router's own replies: contract section 4 on the thin shim, row by row, and the order of the checks."""

from __future__ import annotations

import pytest

from tests.shim import BOX, MockBackend, Shim, ask, raw_request, refused


class TestForTheClient:
    async def test_http_is_checked_before_the_routing_headers(self) -> None:
        assert (await refused({"X-Sandbox-ID": "", "Content-Length": "x"}))[2] == "bad_request"

    async def test_chunks_are_checked_before_the_routing_headers(self) -> None:
        async with Shim() as shim:
            client = shim.connect()
            client.send(raw_request("POST", "/", {"Transfer-Encoding": "chunked"}) + b"+1\r\nx\r\n0\r\n\r\n")
            assert (await client.response()).error == (400, "Malformed HTTP request.", "bad_request")
            await client.until_ended()

    async def test_routing_headers_are_checked_in_the_order_of_the_contract(self) -> None:
        headers = {"X-Sandbox-Namespace": "!", "X-Sandbox-Port": "!"}
        assert (await refused(headers))[2] == "missing_sandbox_id"
        assert (await refused({"X-Sandbox-ID": "!", **headers}))[2] == "invalid_sandbox_id"
        assert (await refused({**BOX, **headers}))[2] == "invalid_namespace"
        assert (await refused({**BOX, "X-Sandbox-Port": "!"}))[2] == "invalid_port"

    async def test_an_error_is_json_with_its_reason_and_keeps_the_connection(self) -> None:
        async with Shim() as shim:
            client = shim.connect()
            client.send(raw_request("POST", "/", {"X-Sandbox-ID": "NO"}, b"a body"))
            first = await client.response()
            assert first.json() == {"detail": "Invalid sandbox ID format."}
            assert first.headers == {
                "content-type": "application/json",
                "content-length": str(len(first.body)),
                "x-sandbox-router-error": "invalid_sandbox_id",
            }
            client.send(raw_request("GET", "/", BOX))
            assert (await client.response()).body == b"ok"

    async def test_an_error_for_head_has_no_body(self) -> None:
        response = await ask("HEAD", "/", {})
        assert (response.status, response.body) == (400, b"")
        assert response.headers["content-length"] == str(len('{"detail":"X-Sandbox-ID header is required."}'))

    async def test_malformed_http_is_answered_and_ends_the_connection(self) -> None:
        async with Shim() as shim:
            client = shim.connect()
            client.send(raw_request("GET", "/", {"A ": "b"}) + raw_request("GET", "/healthz"))
            response = await client.response()
            assert response.error == (400, "Malformed HTTP request.", "bad_request")
            assert response.headers["connection"] == "close"
            await client.until_ended()
            assert client.unread == b""

    @pytest.mark.parametrize(
        ("raw", "error"),
        [
            (b"GET / HTTP/1.1\nHost: a\n\n", (400, "Malformed HTTP request.", "bad_request")),
            (b"GET / HTTP/1.1\r\n\r\n", (400, "Malformed HTTP request.", "bad_request")),
            (b"GET / HTTP/2.0\r\n\r\n", (505, "HTTP version not supported.", "unsupported_version")),
            (b"GET /" + b"a" * 17000, (414, "Request target too long.", "target_too_long")),
            (
                b"GET / HTTP/1.1\r\nHost: a\r\n" + b"A: b\r\n" * 256 + b"\r\n",
                (431, "Request header fields too large.", "headers_too_large"),
            ),
            (
                b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
                (501, "Transfer coding not supported.", "unsupported_coding"),
            ),
            (
                b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n",
                (405, "Method not allowed.", "method_not_allowed"),
            ),
        ],
        ids=lambda value: value[2] if isinstance(value, tuple) else None,
    )
    async def test_what_is_refused_as_http_has_its_row_of_the_table(
        self, raw: bytes, error: tuple[int, str, str]
    ) -> None:
        async with Shim() as shim:
            client = shim.connect()
            client.send(raw)
            response = await client.response()
            assert response.error == error
            assert response.headers["connection"] == "close"
            await client.until_ended()


class TestForTheSandbox:
    @pytest.mark.parametrize(
        ("answer", "detail", "reason"),
        [
            (b"", "The backend sandbox closed the connection: box", "upstream_closed"),
            (b"SSH-2.0-x\r\n", "Invalid response from the backend sandbox: box", "upstream_protocol_error"),
            (
                b"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\nx",
                "Invalid response from the backend sandbox: box",
                "upstream_protocol_error",
            ),
            (
                b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
                "Invalid response from the backend sandbox: box",
                "upstream_protocol_error",
            ),
        ],
    )
    async def test_a_sandbox_that_breaks_off_or_speaks_no_http_is_a_502(
        self, answer: bytes, detail: str, reason: str
    ) -> None:
        response = await ask("GET", "/", BOX, backend=MockBackend(answer))
        assert response.error == (502, detail, reason)

    async def test_an_error_of_the_sandbox_passes_as_it_is(self) -> None:
        answer = b'HTTP/1.1 400 Bad Request\r\nContent-Length: 16\r\n\r\n{"detail":"box"}'
        response = await ask("GET", "/", BOX, backend=MockBackend(answer))
        assert (response.status, response.json()) == (400, {"detail": "box"})
        assert "x-sandbox-router-error" not in response.headers

    async def test_a_router_that_shuts_down_says_so_and_closes(self) -> None:
        async with Shim() as shim:
            client = shim.connect()
            shim.server.shutting_down = True
            client.send(raw_request("GET", "/", BOX))
            response = await client.response()
            assert response.error == (503, "The router is shutting down.", "shutting_down")
            assert response.headers["connection"] == "close"
            await client.until_ended()
