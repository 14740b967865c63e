"""The files of one embedded sandbox: kept in memory, within a cap, on no real file system."""

import posixpath
import time
from email.parser import BytesHeaderParser
from typing import NamedTuple

CAP = 64 * 1024 * 1024
HOME = "app/"


class TooLargeError(Exception):
    """The files of a sandbox would outgrow its cap."""


class Upload(NamedTuple):
    """One uploaded file."""

    path: str
    data: bytes


class Entry(NamedTuple):
    """One line of a listing."""

    name: str
    size: int
    type: str
    mod_time: float


def clean(path: str) -> str:
    """Return the key of a path: no leading slash, no dot segments, relative to /app."""
    return posixpath.normpath("/" + path).lstrip("/").removeprefix(HOME)


class Files:
    """Path to content; `store` refuses what would outgrow `cap`."""

    def __init__(self, cap: int = CAP) -> None:
        """Start empty."""
        self.cap = cap
        self._files: dict[str, tuple[bytes, float]] = {}

    @property
    def size(self) -> int:
        """Bytes kept now."""
        return sum(len(data) for data, _ in self._files.values())

    def store(self, upload: Upload) -> str:
        """Keep a file, replacing an older one of the same path; return the path it is kept under."""
        path = clean(upload.path)
        if self.size - len(self.get(path) or b"") + len(upload.data) > self.cap:
            raise TooLargeError(path)
        self._files[path] = (upload.data, time.time())
        return path

    def get(self, path: str) -> bytes | None:
        """Return the content of a file."""
        found = self._files.get(clean(path))
        return None if found is None else found[0]

    def entries(self, path: str = "") -> list[Entry] | None:
        """Return what a directory holds, sorted by name; None where there is no such directory."""
        folder = clean(path)
        prefix = folder + "/" if folder not in ("", "app") else ""
        found: dict[str, Entry] = {}
        for name, (data, when) in self._files.items():
            if name.startswith(prefix):
                first, deeper, _ = name.removeprefix(prefix).partition("/")
                found[first] = (
                    Entry(first, 0, "directory", when) if deeper else Entry(first, len(data), "file", when)
                )
        return sorted(found.values()) if found or not prefix else None


def multipart_file(content_type: str, body: bytes) -> Upload | None:
    """Return the part named `file` of a multipart/form-data body (RFC 7578), byte for byte."""
    boundary = BytesHeaderParser().parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode()).get_boundary()
    if not boundary:
        return None
    # The CRLF before a boundary belongs to the boundary; the first one may have none.
    for part in (b"\r\n" + body).split(b"\r\n--" + boundary.encode())[1:-1]:
        head, _, data = part.partition(b"\r\n\r\n")
        fields = BytesHeaderParser().parsebytes(head.lstrip(b"\r\n") + b"\r\n\r\n")
        name = fields.get_filename()
        if fields.get_param("name", header="content-disposition") == "file" and name:
            return Upload(name, data)
    return None
