"""The bytes of `/big`, which tests and benchmarks compare with; the paths are tested in test_sandbox.py."""

import hashlib

import pytest

from fastrouter.demo.endpoints import big_pieces, big_sha256


@pytest.mark.parametrize("size", [0, 1, 65520, 65521, 65522, 1_000_000])
def test_big_has_its_size_and_digest(size: int) -> None:
    content = b"".join(big_pieces(size))
    assert len(content) == size
    assert hashlib.sha256(content).hexdigest() == big_sha256(size)


def test_the_pattern_shows_a_piece_that_moved() -> None:
    content = b"".join(big_pieces(1_000_000))
    assert len({content[start : start + 1024] for start in range(0, 999_424, 1024)}) == 976
