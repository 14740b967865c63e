"""Every fuzz target holds for its corpus, the conformance corpus, random bytes and damaged inputs."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conformance.corpus import CHUNKS, HEADS
from tests.fuzz.targets import CORPUS, FOLDER, TARGETS, check_of, corpus_of
from tests.properties.strategies import cut, places

each_target = pytest.mark.parametrize("target", TARGETS)
# Each target on its own examines what others examine too; a run under atheris goes on from here.
_SOME = settings(max_examples=settings.default.max_examples // 4)  # type: ignore[union-attr]


@each_target
def test_the_corpus(target: str) -> None:
    check = check_of(target)
    files = corpus_of(target)
    assert len(files) >= 10
    for file in files:
        try:
            check(file.read_bytes())
        except Exception as error:
            error.add_note(f"python -m tests.fuzz {target} {file.relative_to(FOLDER.parent.parent)}")
            raise


def test_each_folder_of_the_corpus_has_a_target() -> None:
    assert {folder.name for folder in CORPUS.iterdir()} == set(TARGETS)


@each_target
def test_a_target_begins_with_its_invariant(target: str) -> None:
    source = (FOLDER / f"{target}.py").read_text()
    assert re.match(r'"""[A-Z][^\n]+\.("""|\n)', source)
    assert "atheris" not in source


@_SOME
@given(data=st.data())
@each_target
def test_random_bytes(target: str, data: st.DataObject) -> None:
    check_of(target)(data.draw(st.binary(max_size=200)))


@_SOME
@given(data=st.data())
@each_target
def test_damaged_inputs(target: str, data: st.DataObject) -> None:
    file = data.draw(st.sampled_from(corpus_of(target)))
    pieces = cut(file.read_bytes(), data.draw(places)[:4])
    middle = data.draw(st.sampled_from([b"", b"\r", b"\n", b"\r\n", b":", b" ", b"\0", b"~", b"0", b"\xff"]))
    check_of(target)(middle.join(pieces))


@pytest.mark.parametrize("target", ["request_heads", "exchanges"])
def test_the_conformance_corpus(target: str) -> None:
    check = check_of(target)
    for case in HEADS + CHUNKS:
        check(b"4_KG" + case.raw.replace(b"<port>", b"80"))


def test_a_meter_that_takes_what_it_must_refuse_is_found() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fastrouter.wire.framing._CHUNK_LINE", re.compile(rb"\s*([0-9A-Fa-f]+).*\r\n"))
        with pytest.raises(AssertionError):
            check_of("chunked_bodies")(b"0@CG" + b"5;\0\r\nhello\r\n0\r\n\r\n")
