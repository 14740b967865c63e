"""From text to values; tests/test_config.py has the cases of every variable."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from fastrouter import parsers


def test_a_time_may_be_zero_only_where_that_means_something() -> None:
    assert parsers.seconds(zero=True)("0") == 0
    with pytest.raises(ValueError, match="not a number of seconds above 0"):
        parsers.seconds(zero=False)("0")


@pytest.mark.parametrize("text", ["²", "1_0", " 1", "0x1", "1" * 16])
def test_a_count_is_ascii_digits(text: str) -> None:
    with pytest.raises(ValueError, match="not a whole number"):
        parsers.count(text)


def test_bits_behind_the_prefix_of_a_network_are_dropped() -> None:
    assert parsers.networks("10.1.2.3/8, ::1") == (ip_network("10.0.0.0/8"), ip_network("::1/128"))


def test_one_bad_server_spoils_the_list() -> None:
    with pytest.raises(ValueError, match="'dns' is not an address with an optional port"):
        parsers.servers("10.0.0.1,dns")
