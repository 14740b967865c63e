"""Cutting values out of heads, and putting values in their places."""

from __future__ import annotations

import pytest

from fastrouter.wire.template import Knife, Text, places_of, restore

KNIFE = Knife(
    {b"host", b"http2-settings", b"te", b"content-length", b"x-a", b"x-ab"}, {b"content-length": b"[0-9]+"}
)
START = b"GET / HTTP/1.1\r\n"


def cut(*lines: bytes) -> tuple[bytes, list[bytes]] | None:
    return KNIFE.cut(START + b"".join(line + b"\r\n" for line in lines) + b"\r\n")


class TestCut:
    def test_values_that_are_not_read_are_cut_out(self) -> None:
        assert cut(b"Host: a", b"User-Agent: me, you", b"TE: x", b"Trace: 1", b"Id: 2") == (
            START + b"Host: a\0\r\nUser-Agent: \0\r\nTE: x\0\r\nTrace: \0\0\r\nId: \0\r\n\r\n",
            [b"me, you", b"1", b"2"],
        )

    @pytest.mark.parametrize(
        "line",
        [
            b"Host: a",
            b"HOST: a",
            b"hTTp2-sETTings: a",
            b"te: a",
            b"X-A: a",
            b"x-aB: a",
            b"Content-Length: 1a",
        ],
    )
    def test_what_is_read_stays_in_any_spelling(self, line: bytes) -> None:
        assert cut(line) is None

    @pytest.mark.parametrize(
        "name", [b"Hos", b"Hosts", b"t", b"tee", b"X-", b"X-Abc", b"HTTP2-Setting", b"!"]
    )
    def test_names_that_begin_alike_are_not_taken_for_it(self, name: bytes) -> None:
        assert cut(name + b": a") == (START[:-2] + b"\0\r\n" + name + b": \0\r\n\r\n", [b"a"])

    @pytest.mark.parametrize("value", [b"a", b"a b", b"a\t b", b"\xff", b"a \xff", b"a" * 1000])
    def test_any_plain_value_is_cut_out(self, value: bytes) -> None:
        found = cut(b"A: " + value)
        assert found is not None
        assert found[1] == [value]

    @pytest.mark.parametrize(
        "line",
        [
            b"A:a",
            b"A:\ta",
            b"A:  a",
            b"A: ",
            b"A:",
            b"A: a ",
            b"A: a\t",
            b"A : a",
            b"A: a\x7f",
            b"A: a\x01b",
            b"A B: c",
            b"A: b\rc",
            b": a",
        ],
    )
    def test_anything_less_plain_stays(self, line: bytes) -> None:
        assert cut(line) is None

    def test_a_bare_line_feed_ends_no_line_and_begins_none(self) -> None:
        assert KNIFE.cut(START + b"A: b\nB: c\n\r\n") is None

    def test_the_request_line_is_no_field(self) -> None:
        assert KNIFE.cut(b"GET: /\r\n\r\n") is None

    def test_a_head_with_a_gap_of_its_own_is_not_cut(self) -> None:
        assert cut(b"A: \0", b"B: c") is None
        assert cut(b"A\0: b", b"B: c") is None

    def test_an_empty_value_and_a_cut_one_have_different_keys(self) -> None:
        first, second = cut(b"A: ", b"B: c"), cut(b"A: c", b"B: ")
        assert first is not None
        assert second is not None
        assert first[0] != second[0]


def test_a_cut_head_is_restored() -> None:
    raw = START + b"Host: a\r\nB: c\r\nD: e f\r\n\r\n"
    found = KNIFE.cut(raw)
    assert found is not None
    assert restore(*found) == raw
    assert restore(found[0], [b"1", b"2"]) == START + b"Host: a\r\nB: 1\r\nD: 2\r\n\r\n"


def test_the_places_of_a_name_are_told_in_any_spelling() -> None:
    found = cut(b"A: b", b"content-LENGTH: 5", b"C: d", b"Content-Length: 6")
    assert found is not None
    assert places_of(found[0], b"content-length") == [1, 3]
    assert places_of(found[0], b"e") == []


class TestText:
    def test_values_go_where_the_marks_stood(self) -> None:
        assert Text(b"a #0. b #1. c", b"#").fill([b"x", b"yy"]) == b"a x b yy c"

    def test_their_order_and_number_may_differ(self) -> None:
        assert Text(b"#2. #0. #2.", b"#").fill([b"x", b"y", b"z"]) == b"z x z"
        assert Text(b"#10.#1.", b"#").fill([b"%d" % number for number in range(11)]) == b"101"

    def test_a_text_without_marks_stays(self) -> None:
        assert Text(b"text", b"#").fill([b"x"]) == b"text"

    @pytest.mark.parametrize(
        "marked", [b"a #0. b #1. c #2. d", b"#2. #0. #2.#1.", b"#1.", b"text", b"#0.#1.#2."]
    )
    @pytest.mark.parametrize("places", [[], [0], [1, 2], [0, 1, 2], [2]])
    def test_where_some_values_are_settled_the_others_are_taken_alone(
        self, marked: bytes, places: list[int]
    ) -> None:
        text = Text(marked, b"#")
        narrow = text.narrow([b"x", b"yy", b"zzz"], places)
        new = [b"1", b"22", b"333"]
        old = [b"x", b"yy", b"zzz"]
        whole = [(new if place in places else old)[place] for place in range(3)]
        assert narrow.fill([new[place] for place in places]) == text.fill(whole)
        assert text.fill(new) == Text(marked, b"#").fill(new)
