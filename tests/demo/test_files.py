"""The in-memory files of a sandbox and the multipart reader."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastrouter.demo.files import Files, TooLargeError, Upload, clean, multipart_file


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("a", "a"),
        ("/a", "a"),
        ("/app/a", "a"),
        ("app/b/c", "b/c"),
        ("../../etc/passwd", "etc/passwd"),
        ("a/./b//c", "a/b/c"),
    ],
)
def test_paths_are_cleaned(path: str, key: str) -> None:
    assert clean(path) == key


def test_a_file_replaces_an_older_one() -> None:
    files = Files()
    files.store(Upload("/app/a", b"one"))
    files.store(Upload("a", b"two!"))
    assert files.get("a") == b"two!"
    assert files.size == 4
    assert files.get("b") is None


def test_the_cap_holds_for_the_sum_and_counts_a_replaced_file_once() -> None:
    files = Files(cap=10)
    files.store(Upload("a", b"12345678"))
    files.store(Upload("a", b"1234567890"))
    with pytest.raises(TooLargeError):
        files.store(Upload("b", b"1"))
    assert files.get("b") is None


def test_listing_shows_files_and_directories() -> None:
    files = Files()
    assert files.entries() == []
    for path in ("b.txt", "a/deep/x", "a/y"):
        files.store(Upload(path, b"123"))
    assert [(e.name, e.type, e.size) for e in files.entries() or []] == [
        ("a", "directory", 0),
        ("b.txt", "file", 3),
    ]
    assert [(e.name, e.type) for e in files.entries("/app/a/") or []] == [
        ("deep", "directory"),
        ("y", "file"),
    ]
    assert files.entries("nowhere") is None
    assert [e.name for e in files.entries("/app") or []] == ["a", "b.txt"]


def form(boundary: str, *parts: tuple[str, bytes]) -> bytes:
    body = b"".join(
        f"--{boundary}\r\nContent-Disposition: form-data; {parameters}\r\n\r\n".encode() + data + b"\r\n"
        for parameters, data in parts
    )
    return body + f"--{boundary}--\r\n".encode()


@given(st.binary(max_size=200))
def test_multipart_keeps_every_byte(data: bytes) -> None:
    boundary = os.urandom(12).hex()
    body = form(boundary, ('name="other"', b"x"), ('name="file"; filename="a b.txt"', data))
    assert multipart_file(f'multipart/form-data; boundary="{boundary}"', body) == Upload("a b.txt", data)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", form("x", ('name="file"; filename="a"', b""))),
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=x", b"no boundary at all"),
        ("multipart/form-data; boundary=x", form("x", ('name="other"; filename="a"', b""))),
        ("multipart/form-data; boundary=x", form("x", ('name="file"', b"no filename"))),
    ],
)
def test_a_form_without_the_file_has_none(content_type: str, body: bytes) -> None:
    assert multipart_file(content_type, body) is None
