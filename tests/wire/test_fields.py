"""Field lines, and the names with a meaning of their own for a proxy."""

from __future__ import annotations

import pytest

from fastrouter.wire.fields import (
    BARE_LF,
    HOP_BY_HOP,
    NO_TRAILER,
    Fields,
    is_field_block,
    members_of,
    select,
    values,
)


def fields(*pairs: tuple[bytes, bytes]) -> Fields:
    return tuple((name.lower(), name, value) for name, value in pairs)


@pytest.mark.parametrize(
    "block",
    [
        b"\r\n",
        b"A: b\r\n\r\n",
        b"A:b\r\n\r\n",
        b"A:\r\n\r\n",
        b"A: \t b \t\r\n\r\n",
        b"A: b\r\nA: c\r\n\r\n",
        b"!#$%&'*+-.^_`|~09azAZ: any VCHAR !\"(),/:;<=>?@[\\]{}\r\n\r\n",
        b"A: obs-text \x80\xff\r\n\r\n",
    ],
)
def test_field_lines_of_the_strict_grammar_are_a_block(block: bytes) -> None:
    assert is_field_block(block)


@pytest.mark.parametrize(
    "block",
    [
        b"",
        b"A: b",
        b"A: b\r\n",
        b"A: b\n\r\n",
        b"A: b\r\r\n\r\n",
        b"A : b\r\n\r\n",
        b" A: b\r\n\r\n",
        b"A: b\r\n folded\r\n\r\n",
        b"A: b\r\n\tfolded\r\n\r\n",
        b"no colon\r\n\r\n",
        b"NoColon\r\n\r\n",
        b": no name\r\n\r\n",
        b"A\x00: b\r\n\r\n",
        b"A: \x00\r\n\r\n",
        b"A: \x0b\r\n\r\n",
        b"A: \x7f\r\n\r\n",
        b"A: b\nB: c\r\n\r\n",
        b"A: b\rB: c\r\n\r\n",
        b"\xc3\xa4: b\r\n\r\n",
        b'"A": b\r\n\r\n',
        b"A: b\r\n\r\nmore",
    ],
)
def test_anything_else_is_no_block(block: bytes) -> None:
    assert not is_field_block(block)


def test_values_come_in_order_and_only_of_the_name() -> None:
    found = fields((b"A", b"1"), (b"b", b"2"), (b"a", b"3"), (b"AA", b"4"))
    assert values(found, b"a") == [b"1", b"3"]
    assert values(found, b"c") == []


def test_several_names_are_selected_in_one_pass() -> None:
    found = fields((b"A", b"1"), (b"b", b"2"), (b"a", b"3"), (b"C", b"4"))
    assert select(found, frozenset({b"a", b"c", b"d"})) == {b"a": [b"1", b"3"], b"c": [b"4"]}
    assert select((), frozenset({b"a"})) == {}


@pytest.mark.parametrize(
    ("lines", "members"),
    [
        ([], set()),
        ([b""], set()),
        ([b"close"], {b"close"}),
        ([b"Keep-Alive,CLOSE"], {b"keep-alive", b"close"}),
        ([b" , close \t,, te,"], {b"close", b"te"}),
        ([b"close", b"X-A"], {b"close", b"x-a"}),
        ([b"x y"], {b"x y"}),
    ],
)
def test_a_list_is_the_members_of_all_its_lines_in_lower_case(
    lines: list[bytes], members: set[bytes]
) -> None:
    assert members_of(lines) == members


@pytest.mark.parametrize(("data", "at"), [(b"\n", 0), (b"a\n", 1), (b"a\r\n\n", 3), (b"\n\r\n", 0)])
def test_a_bare_lf_is_one_without_its_cr(data: bytes, at: int) -> None:
    found = BARE_LF.search(data)
    assert found
    assert found.start() == at
    assert BARE_LF.search(data.replace(b"\r", b"").replace(b"\n", b"\r\n")) is None


def test_hop_by_hop_fields_are_those_of_rfc_9110_and_two_more() -> None:
    assert {
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"transfer-encoding",
        b"upgrade",
    } == HOP_BY_HOP


def test_no_trailer_frames_routes_or_authenticates() -> None:
    assert HOP_BY_HOP < NO_TRAILER
    assert {b"authorization", b"content-length", b"cookie", b"host", b"set-cookie", b"trailer"} < NO_TRAILER
