"""What an embedded sandbox serves: the paths of the agent-sandbox runtime, and some that exercise a proxy."""

import hashlib
import json
import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from urllib.parse import unquote

from fastrouter.demo.calls import Call, Framing, Reply, json_reply
from fastrouter.demo.files import Files, TooLargeError, Upload, multipart_file
from fastrouter.demo.words import Machine, interpret

Endpoint = Callable[[Call, str, Files], Awaitable[Reply]]

BIG_BYTES = 64 * 1024 * 1024
COMMAND_LIMIT = 1024 * 1024
MULTIPART_ROOM = 64 * 1024  # what a multipart body may have around its file
SHORTEST_INTERVAL = 0.001

# A prime length, which no buffer size is a multiple of: a lost, doubled or swapped piece shows.
_PATTERN = b"".join(hashlib.sha256(number.to_bytes(4, "big")).digest() for number in range(2048))[:65521]


class BadQueryError(ValueError):
    """A query parameter has no usable value."""

    def __init__(self, key: str, expected: str) -> None:
        """Name the parameter and what it may be."""
        super().__init__(f"{key} must be {expected}")


def big_pieces(size: int) -> Iterator[bytes]:
    """Yield the `size` bytes that `/big` serves: a fixed pattern of 65,521 bytes, repeated."""
    for _ in range(size // len(_PATTERN)):
        yield _PATTERN
    yield _PATTERN[: size % len(_PATTERN)]


def big_sha256(size: int) -> str:
    """Return the digest of what `/big?bytes=size` serves."""
    digest = hashlib.sha256()
    for piece in big_pieces(size):
        digest.update(piece)
    return digest.hexdigest()


async def respond(call: Call, name: str, files: Files) -> Reply:
    """Return the reply of the sandbox `name` to one call."""
    endpoint = _find("GET" if call.method == "HEAD" else call.method, call.path)
    if endpoint is None:
        return json_reply(404, {"detail": "Not Found"})
    try:
        return await endpoint(call, name, files)
    except BadQueryError as error:
        return json_reply(400, {"detail": str(error)})
    except TooLargeError:
        return _too_large(files)


def _find(method: str, path: str) -> Endpoint | None:
    if (method, path) in EXACT:
        return EXACT[method, path]
    return next(
        (
            endpoint
            for (verb, prefix), endpoint in UNDER.items()
            if verb == method and path.startswith(prefix)
        ),
        None,
    )


async def _root(call: Call, name: str, files: Files) -> Reply:
    return json_reply(200, {"status": "ok", "sandbox": name})


async def _execute(call: Call, name: str, files: Files) -> Reply:
    body = await call.read(COMMAND_LIMIT)
    if body is None:
        return json_reply(413, {"detail": "The command is too long."})
    try:
        command = json.loads(body)["command"]
    except (ValueError, TypeError, KeyError):
        command = None
    if not isinstance(command, str):
        return json_reply(400, {"detail": 'The body must be JSON: {"command": "..."}'})
    result = await interpret(command, Machine(name, files, call.pause))
    return json_reply(200, result._asdict())


async def _upload(call: Call, name: str, files: Files) -> Reply:
    body = await call.read(files.cap + MULTIPART_ROOM)
    if body is None:
        return _too_large(files)
    content_type = call.header("content-type", "application/octet-stream")
    if content_type.lower().startswith("multipart/form-data"):
        upload = multipart_file(content_type, body)
        if upload is None:
            return json_reply(400, {"detail": "The form has no file in the field 'file'."})
    else:
        upload = Upload(call.query.get("path", "upload"), body)
    path = files.store(upload)
    return json_reply(
        200, {"message": f"File '{path}' uploaded successfully.", "path": path, "size": len(upload.data)}
    )


def _too_large(files: Files) -> Reply:
    return json_reply(413, {"detail": f"A sandbox keeps {files.cap} bytes of files."})


async def _download(call: Call, name: str, files: Files) -> Reply:
    data = files.get(_path(call))
    if data is None:
        return json_reply(404, {"detail": "File not found."})
    return Reply(200, data, "application/octet-stream")


async def _list(call: Call, name: str, files: Files) -> Reply:
    entries = files.entries(_path(call))
    if entries is None:
        return json_reply(404, {"detail": "Directory not found."})
    return json_reply(200, [entry._asdict() for entry in entries])


async def _exists(call: Call, name: str, files: Files) -> Reply:
    path = _path(call)
    return json_reply(
        200, {"path": path, "exists": files.get(path) is not None or files.entries(path) is not None}
    )


async def _clock(call: Call, name: str, files: Files) -> Reply:
    interval = max(_number(call, "interval", 1.0), SHORTEST_INTERVAL)
    count = _number(call, "count", math.inf)
    return Reply(200, _ticks(call, interval, count), "text/event-stream", framing="chunked")


async def _ticks(call: Call, interval: float, count: float) -> AsyncGenerator[bytes, None]:
    number = 0
    while number < count:
        if number:
            await call.pause(interval)
        number += 1
        yield f"id: {number}\nevent: tick\ndata: {datetime.now(UTC).isoformat()}\n\n".encode()


async def _big(call: Call, name: str, files: Files) -> Reply:
    size = int(_number(call, "bytes", BIG_BYTES))
    framings: dict[str, Framing] = {"length": "length", "chunked": "chunked", "close": "close"}
    framing = framings.get(call.query.get("framing", "length"))
    if framing is None:
        raise BadQueryError("framing", "one of: " + ", ".join(framings))
    return Reply(200, _streamed(big_pieces(size)), "application/octet-stream", framing, size)


async def _streamed(pieces: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    for piece in pieces:
        yield piece


async def _echo(call: Call, name: str, files: Files) -> Reply:
    content_type = call.header("content-type", "application/octet-stream")
    framing: Framing = "chunked" if call.chunked else "length"
    await call.ask_for_body()  # after the head of the reply it would be too late
    # body() fills seen.trailers at its end, before the sender looks at the trailers of the reply.
    return Reply(200, call.body(), content_type, framing, call.length, call.seen.trailers)


def _path(call: Call) -> str:
    return unquote(call.path.lstrip("/").partition("/")[2])


def _number(call: Call, key: str, default: float) -> float:
    try:
        value = float(call.query[key]) if key in call.query else default
    except ValueError:
        value = -1.0
    if not value >= 0 or (key in call.query and math.isinf(value)):
        raise BadQueryError(key, "a number that is not negative")
    return value


EXACT: dict[tuple[str, str], Endpoint] = {
    ("GET", "/"): _root,
    ("POST", "/execute"): _execute,
    ("POST", "/upload"): _upload,
    ("GET", "/clock"): _clock,
    ("GET", "/big"): _big,
    ("POST", "/echo"): _echo,
}
UNDER: dict[tuple[str, str], Endpoint] = {
    ("GET", "/download/"): _download,
    ("GET", "/list/"): _list,
    ("GET", "/exists/"): _exists,
}
