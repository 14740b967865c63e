"""A router on the stack of the reference image: FastAPI, uvicorn, and one httpx.AsyncClient.

``python -m bench.peers.fastapi_router --port PORT --dns HOST:PORT``

uvicorn chooses its loop and its parser, as it does by default: h11, and uvloop where it is installed, as it
is here. httpx's limit of 100 connections is lifted, or 1,000 listeners could not be served. It keeps 20 idle
ones, its default: it looks at each of them for every request, and with more of them it was slower (with 300
sandboxes 750 req/s at 20, 63 without a limit). WebSockets are not routed: httpx speaks none.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import aiodns
import httpx
import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import HTTPException
from fastapi.responses import StreamingResponse
from starlette.background import BackgroundTask

from bench.serving import raise_file_limit

METHODS: Final = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"]
TIMEOUT_SECONDS: Final = 180.0
# httpx writes its own; the rest of hop-by-hop is what uvicorn writes.
NOT_FORWARDED: Final = {"host", "connection", "keep-alive"}
NOT_RETURNED: Final = {"connection", "keep-alive"}

AddressInfo = list[tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[str, int]]]


def resolve_through(server: str, loop: asyncio.AbstractEventLoop) -> None:
    """Let the loop ask this DNS server instead of the system's; c-ares keeps the answers for their TTL."""
    resolver = aiodns.DNSResolver(nameservers=[server])

    async def getaddrinfo(host: str, port: int, **_ignored: object) -> AddressInfo:
        try:
            result = await resolver.query_dns(host, "A")
        except aiodns.error.DNSError as error:
            raise socket.gaierror(socket.EAI_NONAME, str(error)) from error
        kind = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        return [(*kind, (entry.data.addr, port)) for entry in result.answer if hasattr(entry.data, "addr")]

    loop.getaddrinfo = getaddrinfo  # type: ignore[assignment,method-assign]


def make_app(dns: str) -> FastAPI:
    """Build the application."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        resolve_through(dns, asyncio.get_running_loop())
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
        async with httpx.AsyncClient(timeout=TIMEOUT_SECONDS, limits=limits, trust_env=False) as client:
            app.state.client = client
            yield

    app = FastAPI(lifespan=lifespan, openapi_url=None)
    app.add_api_route("/{path:path}", proxy, methods=METHODS)
    return app


def target_of(request: Request) -> str:
    """Make the URL of the sandbox that the headers name."""
    sandbox = request.headers.get("x-sandbox-id")
    namespace = request.headers.get("x-sandbox-namespace", "default")
    port = request.headers.get("x-sandbox-port", "8888")
    if not sandbox:
        raise HTTPException(400, "X-Sandbox-ID header is required.")
    if not namespace.replace("-", "").isalnum():
        raise HTTPException(400, "Invalid namespace format.")
    if not port.isdecimal():
        raise HTTPException(400, "Invalid port format.")
    query = f"?{request.url.query}" if request.url.query else ""
    return f"http://{sandbox}.{namespace}.svc.cluster.local:{port}{request.url.path}{query}"


async def proxy(request: Request) -> StreamingResponse:
    """Send a request on, and stream the response back."""
    client: httpx.AsyncClient = request.app.state.client
    has_body = "content-length" in request.headers or "transfer-encoding" in request.headers
    outgoing = client.build_request(
        request.method,
        target_of(request),
        headers=[pair for pair in request.headers.items() if pair[0] not in NOT_FORWARDED],
        content=request.stream() if has_body else None,
    )
    try:
        answer = await client.send(outgoing, stream=True)
    except httpx.HTTPError as error:
        raise HTTPException(502, "Could not connect to the backend sandbox.") from error
    response = StreamingResponse(
        answer.aiter_raw(), status_code=answer.status_code, background=BackgroundTask(answer.aclose)
    )
    response.raw_headers = [
        pair for pair in answer.headers.raw if pair[0].decode().lower() not in NOT_RETURNED
    ]
    return response


def main(arguments: list[str] | None = None) -> None:
    """Serve until a signal; uvicorn writes its access log to stdout."""
    parser = argparse.ArgumentParser(prog="bench.peers.fastapi_router", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--dns", required=True, metavar="HOST:PORT")
    options = parser.parse_args(arguments)
    raise_file_limit()
    uvicorn.run(
        make_app(options.dns),
        host="127.0.0.1",
        port=options.port,
        timeout_keep_alive=650,
        # A connection that is still open does not hold up the end.
        timeout_graceful_shutdown=1,
    )


if __name__ == "__main__":
    main()
