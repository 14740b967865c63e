"""The table of options: complete, in the order of the settings, and named as users write them."""

from __future__ import annotations

import dataclasses

import pytest

from fastrouter.options import GROUPS, OPTIONS, Option
from fastrouter.settings import Settings

BY_FIELD = {option.field: option for option in OPTIONS}


def test_every_setting_has_its_row_and_every_row_its_setting() -> None:
    assert [option.field for option in OPTIONS] == [field.name for field in dataclasses.fields(Settings)]
    assert all(option.help.endswith(".") for option in OPTIONS)


def test_every_option_is_in_one_group() -> None:
    fields = [option.field for options in GROUPS.values() for option in options]
    assert len(set(fields)) == len(fields) == len(OPTIONS)


def test_key_and_flag_come_from_the_variable() -> None:
    timeout = BY_FIELD["proxy_timeout"]
    assert (timeout.key, timeout.flag) == ("proxy_timeout_seconds", "--proxy-timeout-seconds")
    host = BY_FIELD["host"]
    assert (host.variable, host.key, host.flag) == (None, "host", "--host")
    assert len({option.key for option in OPTIONS}) == len(OPTIONS)


def test_the_token_alone_has_no_flag() -> None:
    assert [option.variable for option in OPTIONS if option.flag is None] == ["ROUTER_AUTH_TOKEN"]


def test_the_name_of_an_option_is_what_documents_call_it() -> None:
    assert BY_FIELD["port"].name == "--port"
    assert BY_FIELD["access_log"].name == "ACCESS_LOG"
    assert Option("port", str, "", secret=True).name == "port"


@pytest.mark.parametrize(
    ("field", "text"),
    [
        ("access_log", "true"),
        ("proxy_timeout", "180"),
        ("shutdown_delay", "0"),
        ("max_connections", "0"),
        ("dns_servers", "unset"),
        ("upgrade_protocols", "websocket"),
        ("allow_unauthenticated", "unset"),
        ("tls_cert_file", "unset"),
    ],
)
def test_a_default_is_told_as_a_user_would_write_it(field: str, text: str) -> None:
    assert BY_FIELD[field].default_text == text


def test_few_values_are_listed_and_each_of_them_is_valid() -> None:
    assert BY_FIELD["log_format"].values == ("json", "console")
    assert BY_FIELD["request_id"].values == ("true", "false")
    assert BY_FIELD["port"].values == ()
    for option in OPTIONS:
        assert len({option.parse(value) for value in option.values}) == len(option.values)


def test_lists_and_files_are_known() -> None:
    assert [option.field for option in OPTIONS if option.is_list] == [
        "dns_servers",
        "trusted_proxies",
        "upgrade_protocols",
    ]
    assert [option.field for option in OPTIONS if option.is_file] == [
        "tls_cert_file",
        "tls_key_file",
        "tls_client_ca_file",
    ]
