"""The router's own log: one JSON object a line, whatever a value holds."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from fastrouter.telemetry import logs
from fastrouter.telemetry.logs import Formatter, set_up

HOSTILE = 'x\n{"level":"info","message":"forged"}\r\n\u2028\u2029"\\\x00\x1b[31m\udcff'


def record(message: str = "hello", *arguments: object, **attributes: object) -> logging.LogRecord:
    made = logging.LogRecord("fastrouter.x", logging.WARNING, "x.py", 1, message, arguments, None)
    vars(made).update(attributes)
    return made


def line_of(made: logging.LogRecord) -> dict[str, Any]:
    text = Formatter().format(made)
    assert text.isascii()
    assert len(text.splitlines()) == 1
    line: dict[str, Any] = json.loads(text)
    return line


def test_a_line_tells_time_level_and_message() -> None:
    line = line_of(record("got %d of %s", 3, "five", created=1700000000.0, msecs=45.9))
    assert line == {"time": "2023-11-14T22:13:20.045Z", "level": "warning", "message": "got 3 of five"}


def test_extra_members_stand_beside_the_message() -> None:
    line = line_of(record(host="a", port=80, settings={"b": (1.5, None)}))
    assert {name: line[name] for name in ("host", "port", "settings")} == {
        "host": "a",
        "port": 80,
        "settings": {"b": [1.5, None]},
    }


def test_what_json_does_not_know_is_told_as_text() -> None:
    assert line_of(record(error=OSError(111, "refused")))["error"] == "[Errno 111] refused"


def test_no_message_forges_a_line() -> None:
    assert line_of(record(HOSTILE))["message"] == HOSTILE
    assert line_of(record("%s", HOSTILE))["message"] == HOSTILE


def test_no_extra_member_forges_a_line() -> None:
    assert line_of(record(peer=HOSTILE))["peer"] == HOSTILE
    named = record()
    vars(named)[HOSTILE] = 1
    assert line_of(named)[HOSTILE] == 1
    assert line_of(record(peer=ValueError(HOSTILE)))["peer"] == HOSTILE


def test_a_traceback_stays_in_its_line() -> None:
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        line = line_of(record(exc_info=sys.exc_info()))
    assert "Traceback (most recent call last):\n" in line["traceback"]
    assert HOSTILE in line["traceback"]


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    logger = logging.getLogger()
    handlers, level = logger.handlers[:], logger.level
    yield logger
    logger.handlers[:] = handlers
    logger.setLevel(level)


def test_the_log_of_the_whole_process_goes_to_the_stream(root: logging.Logger) -> None:
    stream = io.StringIO()
    set_up(io.StringIO())
    set_up(stream)
    logging.getLogger("any.library").warning("one\ntwo", extra={"peer": "a\nb"})
    logging.getLogger("any.library").debug("not told")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["message"], line["peer"]) for line in lines] == [("one\ntwo", "a\nb")]
    assert len(root.handlers) == 1


def test_a_level_and_a_style_are_chosen(root: logging.Logger) -> None:
    stream = io.StringIO()
    set_up(stream, style="console", level="warning")
    logging.getLogger("fastrouter.test").info("not told")
    logging.getLogger("fastrouter.test").warning("told", extra={"number": 7})
    assert stream.getvalue().split(" ", 1)[1] == "warning told number=7\n"


def test_lines_go_through_whoever_writes_them() -> None:
    said: list[str] = []
    root = logging.getLogger()
    before = root.handlers[:]
    try:
        logs.send_through(said.append)
        logging.getLogger("fastrouter.test").warning("told", extra={"number": 7})
    finally:
        root.handlers[:] = before
    (line,) = said
    assert line.endswith("\n")
    assert json.loads(line)["number"] == 7


def test_what_is_told_seldom_is_told_again_after_a_while() -> None:
    told = logs.Seldom(2.0)
    assert [told.may(now) for now in (0.5, 0.5, 2.4, 2.5, 4.4, 9.0)] == [
        True,
        False,
        False,
        True,
        False,
        True,
    ]
