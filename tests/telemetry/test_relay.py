"""Lines of several writers on one descriptor: whole, all of them, and nothing of who died in the middle."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from fastrouter.telemetry import relay
from fastrouter.telemetry.relay import Relay


class Reader:
    """Reads all that is written to a pipe."""

    def __init__(self) -> None:
        read_fd, self.write_fd = os.pipe()
        self._file: IO[bytes] = os.fdopen(read_fd, "rb")
        self.data = b""
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        self.data = self._file.read()
        self._file.close()

    def end(self) -> bytes:
        os.close(self.write_fd)
        self._thread.join(10.0)
        return self.data


@contextmanager
def reading() -> Iterator[tuple[Relay, Reader]]:
    reader = Reader()
    yield Relay(reader.write_fd), reader


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def test_long_lines_of_many_writers_stay_whole() -> None:
    with reading() as (made, reader):
        lines = {bytes([letter]) * (3000 + 997 * n) for n, letter in enumerate(b"abcdef")}

        def speak(line: bytes) -> None:
            fd = made.open()
            for _ in range(60):
                write(fd, line + b"\n")
            os.close(fd)

        writers = [threading.Thread(target=speak, args=(line,)) for line in lines]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(10.0)
        made.close()
        received = reader.end().splitlines()
    assert sorted(received) == sorted([*lines] * 60)


def test_half_a_line_of_a_writer_that_died_is_not_passed_on() -> None:
    with reading() as (made, reader):
        first, second = made.open(), made.open()
        write(first, b"whole\nhal")
        os.close(first)
        write(second, b"other\n")
        os.close(second)
        made.close()
        assert sorted(reader.end().splitlines()) == [b"other", b"whole"]


def test_a_line_that_comes_in_pieces_is_put_together() -> None:
    with reading() as (made, reader):
        fd = made.open()
        for piece in (b"on", b"e\ntw", b"o\n"):
            write(fd, piece)
        os.close(fd)
        made.close()
        assert reader.end() == b"one\ntwo\n"


def test_what_never_ends_is_not_kept_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "_LONGEST", 1000)
    with reading() as (made, reader):
        fd = made.open()
        for _ in range(50):
            write(fd, b"x" * 50_000)
        write(fd, b"\nnext\n")
        os.close(fd)
        made.close()
        first, second = reader.end().splitlines()
    # One read beyond the limit, and what came with the end of the line.
    assert len(first) < 3 * 256 * 1024
    assert second == b"next"


def test_a_reader_that_comes_late_gets_all_even_where_writing_may_not_wait() -> None:
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    made = Relay(write_fd)
    fd = made.open()
    speaker = threading.Thread(target=write, args=(fd, b"line\n" * 60_000))
    speaker.start()
    received = b""
    while received.count(b"\n") < 60_000:
        received += os.read(read_fd, 65536)
    speaker.join(10.0)
    os.close(fd)
    made.close()
    assert received == b"line\n" * 60_000
    assert repr(made) == f"<Relay fd={write_fd} pipes=0>"
    os.close(read_fd)
    os.close(write_fd)


def test_without_a_reader_writers_go_on() -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    made = Relay(write_fd)
    fd = made.open()
    write(fd, b"line\n" * 100_000)
    os.close(fd)
    made.close()
    os.close(write_fd)


def test_writers_that_stay_are_waited_for_once_and_not_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay, "_CLOSE_SECONDS", 0.2)
    with reading() as (made, reader):
        fds = [made.open() for _ in range(5)]
        began = time.monotonic()
        made.close()
        assert 0.2 <= time.monotonic() - began < 0.6
        for fd in fds:
            os.close(fd)
        made.close()
        assert reader.end() == b""


def test_where_there_is_no_thread_no_descriptor_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    before = descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError, match="thread"):
            Relay(1).open()
    assert descriptors() == before
