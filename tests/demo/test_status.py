"""The live status line."""

import io

from fastrouter.demo.status import StatusLine, count


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_counters_may_be_numbers_or_numbers_by_reason() -> None:
    assert [count(value) for value in (3, 2.0, {"a": 1, "b": {"c": 2}}, None, "x", {})] == [3, 2, 3, 0, 0, 0]


def test_a_terminal_shows_one_line_that_is_written_over() -> None:
    counters: dict[str, object] = {"requests": 1000, "errors": {"dns_not_found": 2}}
    out = Terminal()
    line = StatusLine(out, lambda: counters, lambda: "3 of 5")
    line.refresh()
    first = out.getvalue()
    assert first.startswith("\r")
    assert first.endswith(" requests/s, 1,000 requests, 2 errors, 3 of 5 sandboxes seen")
    line.refresh()
    second = out.getvalue().removeprefix(first)
    assert second.rstrip(" ") == "\r0 requests/s, 1,000 requests, 2 errors, 3 of 5 sandboxes seen"
    assert len(second) == len(first)
    line.close()
    assert out.getvalue().removeprefix(first + second) == "\r" + " " * len(second.rstrip(" ").strip()) + "\r"
    assert "\n" not in out.getvalue()


def test_no_terminal_no_line_but_totals() -> None:
    out = io.StringIO()
    line = StatusLine(out, lambda: {"requests": 7}, lambda: "1 of 1")
    line.refresh()
    line.close()
    assert out.getvalue() == ""
    assert line.totals() == "7 requests, 0 errors, 1 of 1 sandboxes seen"
