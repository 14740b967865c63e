"""The table of settings: parsing, bounds, precedence, and what an invalid value does."""

from __future__ import annotations

import dataclasses
import runpy
from ipaddress import ip_network
from typing import Any

import pytest

from fastrouter.settings import OPTIONS, Option, Settings, SettingsError, load, markdown_table

VARIABLES = {option.variable: option for option in OPTIONS if option.variable}
FLAGS = {option.flag: option for option in OPTIONS if option.flag}
# Those that the reference router has too.
LENIENT = {
    "PROXY_TIMEOUT_SECONDS",
    "CLUSTER_DOMAIN",
    "MAX_KEEPALIVE_CONNECTIONS",
    "TRUSTED_PROXY_CIDRS",
    "WEBSOCKET_IDLE_TIMEOUT_SECONDS",
    "WEBSOCKET_MAX_LIFETIME_SECONDS",
    "WEBSOCKET_MAX_CONNECTIONS_PER_CLIENT",
    "WEBSOCKET_MAX_MESSAGE_BYTES",
}


def fail(message: str) -> None:
    raise AssertionError(message)


def value_of(option: Option, text: str) -> Any:
    flags = {} if option.variable else {option.field: text}
    environ = {option.variable: text} if option.variable else {}
    return getattr(load(flags, environ, fail), option.field)


def option(name: str) -> Option:
    return (VARIABLES | FLAGS)[name]


def test_the_defaults_are_the_contracts() -> None:
    assert load({}, {}, fail) == Settings(
        host="0.0.0.0",
        port=8080,
        proxy_timeout=180.0,
        cluster_domain="cluster.local",
        dns_servers=(),
        dial_retry=3.0,
        max_keepalive=20,
        keepalive_expiry=4.0,
        request_head_timeout=10.0,
        client_keepalive=650.0,
        shutdown_grace=30.0,
        access_log=True,
    )


def test_every_setting_has_its_row_and_every_row_its_setting() -> None:
    assert [option.field for option in OPTIONS] == [field.name for field in dataclasses.fields(Settings)]
    assert all(option.variable or option.flag for option in OPTIONS)
    assert all(option.help.endswith(".") for option in OPTIONS)


VALID = [
    ("--host", "127.0.0.1", "127.0.0.1"),
    ("--port", "0", 0),
    ("--port", "65535", 65535),
    ("PROXY_TIMEOUT_SECONDS", "0.25", 0.25),
    ("CLUSTER_DOMAIN", "Cluster.Example.", "cluster.example"),
    ("CLUSTER_DOMAIN", " .local ", "local"),
    ("DNS_SERVERS", "", ()),
    ("DNS_SERVERS", "10.0.0.10", ("10.0.0.10",)),
    (
        "DNS_SERVERS",
        "10.0.0.10:53, [2001:db8::1]:5353 ,2001:db8::2,[::1],",
        ("10.0.0.10:53", "[2001:db8::1]:5353", "2001:db8::2", "[::1]"),
    ),
    ("DIAL_RETRY_SECONDS", "0", 0.0),
    ("DIAL_RETRY_SECONDS", "1.5", 1.5),
    ("MAX_KEEPALIVE_CONNECTIONS", "0", 0),
    ("MAX_KEEPALIVE_CONNECTIONS", "999999999", 999999999),
    ("KEEPALIVE_EXPIRY_SECONDS", "60", 60.0),
    ("REQUEST_HEAD_TIMEOUT_SECONDS", "1", 1.0),
    ("CLIENT_KEEPALIVE_SECONDS", "1e3", 1000.0),
    ("SHUTDOWN_GRACE_SECONDS", "0", 0.0),
    ("MAX_CONNECTIONS", "5000", 5000),
    ("MAX_CONNECTIONS_PER_SANDBOX", "100", 100),
    ("MAX_REQUEST_BODY_BYTES", "1073741824", 2**30),
    *[("ACCESS_LOG", text, True) for text in ("1", "true", "T", "YES", "y", "On")],
    *[("ACCESS_LOG", text, False) for text in ("0", "FALSE", "f", "no", "N", "off")],
    ("ROUTER_AUTH_TOKEN", "  secret \n", "secret"),
    ("ROUTER_AUTH_HEADER", "X-Router-Authorization", "X-Router-Authorization"),
    *[("ALLOW_UNAUTHENTICATED_ROUTER", text, True) for text in ("1", "true", "T", " yes ", "y", "ON")],
    ("FORWARD_AUTHORIZATION", "true", True),
    ("TRUSTED_PROXY_CIDRS", "10.0.0.0/8, fd00::/8,", (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))),
    ("TRUSTED_PROXY_CIDRS", "10.0.0.1/8", (ip_network("10.0.0.0/8"),)),
    ("UPGRADE_PROTOCOLS", "WebSocket, echo", ("websocket", "echo")),
    ("UPGRADE_PROTOCOLS", "", ()),
    ("FORWARD_WEBSOCKET_ORIGIN", "yes", True),
    ("WEBSOCKET_IDLE_TIMEOUT_SECONDS", "0", 0.0),
    ("WEBSOCKET_MAX_LIFETIME_SECONDS", "60.5", 60.5),
    ("WEBSOCKET_MAX_CONNECTIONS_PER_CLIENT", "0", 0),
    ("WEBSOCKET_MAX_MESSAGE_BYTES", "1073741824", 2**30),
]


@pytest.mark.parametrize(("name", "text", "value"), VALID)
def test_a_valid_value_is_taken(name: str, text: str, value: object) -> None:
    assert value_of(option(name), text) == value


def test_every_option_has_a_valid_and_an_invalid_value_in_these_tests() -> None:
    names = set(VARIABLES) | set(FLAGS)
    assert {row[0] for row in VALID} == names
    # Any text may be a host (listening will tell), a token, and "not allowed".
    assert {row[0] for row in INVALID} == names - {
        "--host",
        "ROUTER_AUTH_TOKEN",
        "ALLOW_UNAUTHENTICATED_ROUTER",
    }


NO_SECONDS = ["", "abc", "-1", "inf", "nan", "1s"]
INVALID = [
    *[("ROUTER_AUTH_HEADER", text) for text in ("", "X Y", "X:Y")],
    *[("TRUSTED_PROXY_CIDRS", text) for text in ("proxy", "10.0.0.0/33", "10.0.0.0/8;::1")],
    *[("UPGRADE_PROTOCOLS", text) for text in ("web socket", "a/b")],
    *[
        (name, text)
        for name in ("FORWARD_AUTHORIZATION", "FORWARD_WEBSOCKET_ORIGIN")
        for text in ("", "maybe", "2")
    ],
    *[
        (f"WEBSOCKET_{name}_SECONDS", text)
        for name in ("IDLE_TIMEOUT", "MAX_LIFETIME")
        for text in NO_SECONDS
    ],
    *[
        (f"WEBSOCKET_MAX_{name}", text)
        for name in ("CONNECTIONS_PER_CLIENT", "MESSAGE_BYTES")
        for text in ("", "-1", "1.5", "many")
    ],
    *[("--port", text) for text in ("", "http", "-1", "65536", "8080.0", "+80", "²", "1" * 16)],
    *[("PROXY_TIMEOUT_SECONDS", text) for text in (*NO_SECONDS, "0")],
    *[("CLUSTER_DOMAIN", text) for text in ("", ".", "a..b", "a b", "-a", "a-.b", "a_b", "ä")],
    *[
        ("DNS_SERVERS", text)
        for text in (
            "localhost",
            "10.0.0",
            "10.0.0.256",
            "10.0.0.1:x",
            "10.0.0.1:65536",
            "[::1",
            "[::g]:53",
            "::1::2",
        )
    ],
    *[("DIAL_RETRY_SECONDS", text) for text in NO_SECONDS],
    *[("MAX_KEEPALIVE_CONNECTIONS", text) for text in ("", "-1", "1.5", "many", "1" * 16)],
    *[
        (name, text)
        for name in ("MAX_CONNECTIONS", "MAX_CONNECTIONS_PER_SANDBOX", "MAX_REQUEST_BODY_BYTES")
        for text in ("", "-1", "1.5", "1k")
    ],
    *[("KEEPALIVE_EXPIRY_SECONDS", text) for text in (*NO_SECONDS, "0")],
    *[("REQUEST_HEAD_TIMEOUT_SECONDS", text) for text in (*NO_SECONDS, "0")],
    *[("CLIENT_KEEPALIVE_SECONDS", text) for text in (*NO_SECONDS, "0")],
    *[("SHUTDOWN_GRACE_SECONDS", text) for text in NO_SECONDS],
    *[("ACCESS_LOG", text) for text in ("", "2", "maybe")],
]


@pytest.mark.parametrize(("name", "text"), [row for row in INVALID if row[0] not in LENIENT])
def test_an_invalid_value_of_ours_is_an_error_that_names_it(name: str, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        value_of(option(name), text)
    assert str(caught.value).startswith(f"{name}: invalid value {text!r}: ")


@pytest.mark.parametrize(("name", "text"), [row for row in INVALID if row[0] in LENIENT])
def test_an_invalid_value_that_the_reference_survives_is_one_warning_and_the_default(
    name: str, text: str
) -> None:
    warnings: list[str] = []
    assert load({}, {name: text}, warnings.append) == Settings()
    (warning,) = warnings
    assert warning.startswith(f"{name}: invalid value {text!r}: ")
    assert warning.endswith(f"; using the default {option(name).default}")


def test_an_invalid_value_beside_valid_ones_costs_only_its_own_setting() -> None:
    warnings: list[str] = []
    environ = {"PROXY_TIMEOUT_SECONDS": "x", "CLUSTER_DOMAIN": "example.org"}
    assert load({}, environ, warnings.append) == Settings(cluster_domain="example.org")
    assert len(warnings) == 1


def test_a_flag_goes_before_the_environment_and_the_environment_before_the_default() -> None:
    environ = {"PROXY_TIMEOUT_SECONDS": "20"}
    assert load({"proxy_timeout": "10"}, environ, fail).proxy_timeout == 10
    assert load({"proxy_timeout": None}, environ, fail).proxy_timeout == 20
    assert load({"proxy_timeout": None}, {}, fail).proxy_timeout == 180


def test_only_variables_of_the_table_are_read() -> None:
    assert load({}, {"HOST": "::1", "PORT": "1", "host": "::1", "proxy_timeout": "1"}, fail) == Settings()


def test_the_name_of_an_option_is_what_the_user_writes() -> None:
    assert option("--port").name == "--port"
    assert option("ACCESS_LOG").name == "ACCESS_LOG"
    assert Option("port", str, "").name == "port"


def test_settings_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]


def test_the_table_has_a_row_for_every_option() -> None:
    heading, rule, *rows = markdown_table().splitlines()
    assert (heading, rule) == ("| variable or flag | default | meaning |", "|---|---|---|")
    assert len(rows) == len(OPTIONS)
    assert rows[1] == "| `--port` | `8080` | Port to listen on; 0 takes a free one. |"
    shown = {row.split("`")[1]: row.split("`")[3] for row in rows}
    assert shown["PROXY_TIMEOUT_SECONDS"] == "180"
    assert shown["DNS_SERVERS"] == "unset"
    assert shown["ACCESS_LOG"] == "true"
    assert shown["MAX_KEEPALIVE_CONNECTIONS"] == "20"


@pytest.mark.filterwarnings("ignore:'fastrouter.settings' found in sys.modules:RuntimeWarning")
def test_the_module_prints_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_module("fastrouter.settings", run_name="__main__")
    assert capsys.readouterr().out == markdown_table()


def test_a_router_that_is_told_no_and_has_no_token_refuses_to_start() -> None:
    for text in ("false", "0", "", "nope"):
        with pytest.raises(
            SettingsError, match="ROUTER_AUTH_TOKEN must be set to start the sandbox router securely"
        ):
            load({}, {"ALLOW_UNAUTHENTICATED_ROUTER": text}, print)
    allowed = load({}, {"ALLOW_UNAUTHENTICATED_ROUTER": "false", "ROUTER_AUTH_TOKEN": "t"}, print)
    assert allowed.honours_pod_ip


def test_the_log_is_not_told_the_token() -> None:
    shown = Settings(auth_token="secret", trusted_proxies=(ip_network("10.0.0.0/8"),)).shown()
    assert "secret" not in str(shown)
    assert (shown["auth_token"], shown["trusted_proxies"]) == ("***", ["10.0.0.0/8"])
    assert Settings().shown()["auth_token"] == ""
