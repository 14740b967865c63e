"""The table of settings: parsing, bounds, precedence, and what an invalid value does."""

from __future__ import annotations

import runpy
from ipaddress import ip_network
from typing import Any

import pytest

from fastrouter.config import explain, load, markdown_tables
from fastrouter.configfile import ConfigFile
from fastrouter.options import GROUPS, OPTIONS, Option
from fastrouter.settings import Settings, SettingsError

VARIABLES = {option.variable: option for option in OPTIONS if option.variable}
# Those that have no variable; every other flag reads its value in the same way.
FLAGS = {option.flag: option for option in OPTIONS if option.flag and not option.variable}
TLS = {"TLS_CERT_FILE": "/tls/tls.crt", "TLS_KEY_FILE": "/tls/tls.key", "TLS_CLIENT_CA_FILE": "/tls/ca.crt"}
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
    if option.field.startswith(("tls_", "mtls_")):  # they need each other
        environ = TLS | {"MTLS_MODE": "optional"} | environ
    warn = ignore if environ.get("MTLS_MODE") == "off" else fail
    return getattr(load(flags, environ, warn), option.field)


def ignore(message: str) -> None:
    """For what is doubtful on purpose."""


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
    ("HTTPS_PORT", "0", 0),
    ("WORKERS", "2", 2),
    ("WORKERS", "Auto", 0),
    *[
        (name, text, port)
        for name in ("HEALTH_PORT", "METRICS_PORT")
        for text, port in (("0", 0), ("off", None))
    ],
    ("TLS_CERT_FILE", "/tls/tls.crt", "/tls/tls.crt"),
    ("TLS_KEY_FILE", "/tls/tls.key", "/tls/tls.key"),
    ("TLS_CLIENT_CA_FILE", "/tls/ca.crt", "/tls/ca.crt"),
    *[("MTLS_MODE", text, text.lower()) for text in ("off", "Optional", "required")],
    ("SHUTDOWN_DELAY_SECONDS", "5", 5.0),
    *[("ACCESS_LOG_SAMPLE", text, float(text)) for text in ("0", "0.01", "1")],
    *[("LOG_FORMAT", text, text.lower()) for text in ("json", "Console")],
    *[("LOG_LEVEL", text, text.lower()) for text in ("debug", "info", "WARNING", "error")],
    ("REQUEST_ID", "off", False),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318", "http://127.0.0.1:4318"),
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
        "ROUTER_AUTH_TOKEN",
        "ALLOW_UNAUTHENTICATED_ROUTER",
        # Starting will tell.
        "OTEL_EXPORTER_OTLP_ENDPOINT",
    }


NO_SECONDS = ["", "abc", "-1", "inf", "nan", "1s"]
INVALID = [
    *[("--host", text) for text in ("a..b", "x" * 64 + ".example")],
    *[(name, "a\0b") for name in ("TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CLIENT_CA_FILE")],
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
    *[(name, text) for name in ("ACCESS_LOG", "REQUEST_ID") for text in ("", "2", "maybe")],
    *[(name, text) for name in ("HEALTH_PORT", "METRICS_PORT") for text in ("", "on", "65536")],
    *[("HTTPS_PORT", text) for text in ("", "off", "65536")],
    *[("WORKERS", text) for text in ("", "0", "-1", "257", "many")],
    *[("SHUTDOWN_DELAY_SECONDS", text) for text in NO_SECONDS],
    *[("ACCESS_LOG_SAMPLE", text) for text in ("", "1.1", "-0.1", "nan", "all")],
    *[(name, text) for name in ("MTLS_MODE", "LOG_FORMAT", "LOG_LEVEL") for text in ("", "maybe")],
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


def test_a_flag_goes_before_the_file_and_the_file_before_the_environment() -> None:
    environ = {"PROXY_TIMEOUT_SECONDS": "20", "CLUSTER_DOMAIN": "example.org", "DIAL_RETRY_SECONDS": "1"}
    file = ConfigFile({"proxy_timeout": 15.0, "cluster_domain": "file.example", "health_port": None})
    effective = explain({"proxy_timeout": "10"}, environ, fail, file)
    assert effective.settings == Settings(
        proxy_timeout=10.0, cluster_domain="file.example", health_port=None, dial_retry=1.0
    )
    assert effective.origins == {
        "proxy_timeout": "flag",
        "cluster_domain": "file",
        "health_port": "file",
        "dial_retry": "environment",
    }


def test_a_value_that_is_overridden_is_not_looked_at_in_the_environment() -> None:
    file = ConfigFile({"access_log": False})
    assert load({}, {"ACCESS_LOG": "perhaps"}, fail, file) == Settings(access_log=False)


@pytest.mark.parametrize("name", sorted(LENIENT))
def test_what_the_environment_survives_is_an_error_in_a_flag(name: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load({option(name).field: "!"}, {}, fail)
    assert str(caught.value).startswith(f"{option(name).flag}: invalid value '!': ")


def test_all_faults_are_told_at_once_those_of_the_file_first() -> None:
    file = ConfigFile({}, ("f.yaml:1: a: unknown key", "f.yaml:2: b: unknown key"))
    with pytest.raises(SettingsError) as caught:
        load({"port": "x"}, {"ACCESS_LOG": "perhaps", "MTLS_MODE": "required"}, fail, file)
    assert [line.partition(": ")[0] for line in str(caught.value).split("\n")] == [
        "f.yaml:1",
        "f.yaml:2",
        "--port",
        "ACCESS_LOG",
        "MTLS_MODE required needs TLS_CLIENT_CA_FILE",
        "MTLS_MODE required needs TLS_CERT_FILE and TLS_KEY_FILE",
    ]


@pytest.mark.parametrize(
    ("environ", "faults"),
    [
        (
            {"TLS_CERT_FILE": "c"},
            ["TLS_CERT_FILE and TLS_KEY_FILE go together: TLS_KEY_FILE is not set"],
        ),
        (
            {"TLS_KEY_FILE": "k"},
            ["TLS_CERT_FILE and TLS_KEY_FILE go together: TLS_CERT_FILE is not set"],
        ),
        (
            {"TLS_CERT_FILE": "c", "TLS_KEY_FILE": "k", "MTLS_MODE": "optional"},
            ["MTLS_MODE optional needs TLS_CLIENT_CA_FILE"],
        ),
        (
            {"TLS_CLIENT_CA_FILE": "ca", "MTLS_MODE": "required"},
            ["MTLS_MODE required needs TLS_CERT_FILE and TLS_KEY_FILE"],
        ),
    ],
)
def test_files_of_tls_need_each_other(environ: dict[str, str], faults: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        load({}, environ, fail)
    assert str(caught.value).split("\n") == faults


def test_authorities_that_nobody_asks_for_are_a_warning() -> None:
    warnings: list[str] = []
    load({}, TLS, warnings.append)
    assert warnings == [
        "TLS_CLIENT_CA_FILE plays no part while MTLS_MODE is off: no client certificate is asked for"
    ]
    load({}, {**TLS, "MTLS_MODE": "required"}, fail)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("PROXY_TIMEOUT_SECOND", "PROXY_TIMEOUT_SECONDS"),
        ("MAX_KEEP_ALIVE_CONNECTIONS", "MAX_KEEPALIVE_CONNECTIONS"),
        ("WEBSOCKET_MAX_MESAGE_BYTES", "WEBSOCKET_MAX_MESSAGE_BYTES"),
        ("TLS_CRT_FILE", "TLS_CERT_FILE"),
    ],
)
def test_a_slip_in_a_variables_name_is_one_warning(name: str, meant: str) -> None:
    warnings: list[str] = []
    assert load({}, {name: "1"}, warnings.append) == Settings()
    assert warnings == [f"{name} is no variable of the router; did you mean {meant}?"]


@pytest.mark.parametrize(
    "name",
    [
        *[
            "PATH",
            "HOSTNAME",
            "LOG_LEVELS",
            "SSL_CERT_FILE",
            "KUBERNETES_SERVICE_PORT",
            "HTTPS_PROXY",
            "WORKER",
        ],
        *["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "SANDBOX_ROUTER_SVC_PORT"],
        *["METRICS_SERVER_PORT", "WORKER", "MAX_CONNECTION", "FASTROUTER_CONFIG", "MY_PROXY_TIMEOUT_SECONDS"],
    ],
)
def test_other_programs_variables_are_their_own_affair(name: str) -> None:
    load({}, {name: "1"}, fail)


def test_only_variables_of_the_table_are_read() -> None:
    assert load({}, {"HOST": "::1", "PORT": "1", "host": "::1", "proxy_timeout": "1"}, fail) == Settings()


def test_the_tables_have_a_row_for_every_option() -> None:
    lines = markdown_tables().splitlines()
    rows = [line for line in lines if line.startswith("| `")]
    assert len(rows) == len(OPTIONS)
    assert rows[1] == "| `port` | - | `8080` | Port to listen on; 0 takes a free one. |"
    assert "| `access_log` | `ACCESS_LOG` | `true` | One line per request on standard output. |" in rows
    headings = [line for line in lines if line.startswith("### ")]
    assert headings[0] == "### Listening"
    assert len(headings) == len(GROUPS)


@pytest.mark.filterwarnings("ignore:'fastrouter.config' found in sys.modules:RuntimeWarning")
def test_the_module_prints_its_tables(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_module("fastrouter.config", run_name="__main__")
    assert capsys.readouterr().out == markdown_tables()


def test_a_router_that_is_told_no_and_has_no_token_refuses_to_start() -> None:
    for text in ("false", "0", "", "nope"):
        with pytest.raises(
            SettingsError, match="ROUTER_AUTH_TOKEN must be set to start the sandbox router securely"
        ):
            load({}, {"ALLOW_UNAUTHENTICATED_ROUTER": text}, print)
    allowed = load({}, {"ALLOW_UNAUTHENTICATED_ROUTER": "false", "ROUTER_AUTH_TOKEN": "t"}, print)
    assert allowed.honours_pod_ip
