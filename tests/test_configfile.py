"""The configuration file: what it may say, every fault with its line, and the way back from settings."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fastrouter import parsers
from fastrouter.config import explain
from fastrouter.configfile import ConfigFile, read, write
from fastrouter.options import GROUPS, OPTIONS, Option
from fastrouter.settings import Settings

BY_FIELD = {option.field: option for option in OPTIONS}


def values_of(text: str) -> dict[str, Any]:
    file = read(text, "f.yaml")
    assert file.faults == ()
    return dict(file.values)


def faults_of(text: str) -> list[str]:
    return list(read(text, "f.yaml").faults)


class TestValues:
    @pytest.mark.parametrize(
        ("text", "field", "value"),
        [
            ("port: 9000", "port", 9000),
            ('port: "9000"', "port", 9000),
            ("host: ::1", "host", "::1"),
            ("proxy_timeout_seconds: 2.5", "proxy_timeout", 2.5),
            ("proxy_timeout_seconds: 1e3", "proxy_timeout", 1000.0),
            *[(f"access_log: {text}", "access_log", False) for text in ("false", "no", "off", "False", "0")],
            *[(f"access_log: {text}", "access_log", True) for text in ("true", "yes", "on", '"on"', "1")],
            # YAML 1.1 reads this as false: the setting's own word goes before.
            ("health_port: off", "health_port", None),
            ("mtls_mode: off", "mtls_mode", "off"),
            ("workers: auto", "workers", 0),
            ("dns_servers: [10.0.0.1, '[::1]:53']", "dns_servers", ("10.0.0.1", "[::1]:53")),
            ("dns_servers:\n- 10.0.0.1\n- 10.0.0.2:53", "dns_servers", ("10.0.0.1", "10.0.0.2:53")),
            ("dns_servers: 10.0.0.1, 10.0.0.2", "dns_servers", ("10.0.0.1", "10.0.0.2")),
            ("dns_servers: []", "dns_servers", ()),
            ("trusted_proxy_cidrs: [10.0.0.0/8]", "trusted_proxies", (ip_network("10.0.0.0/8"),)),
            ("upgrade_protocols: [WebSocket]", "upgrade_protocols", ("websocket",)),
            ("router_auth_token: ' secret '", "auth_token", "secret"),
            ("router_auth_token: 1234", "auth_token", "1234"),
            ("allow_unauthenticated_router: true", "allow_unauthenticated", True),
            ("tls_cert_file: ''", "tls_cert_file", ""),
            ("cluster_domain: !!str local", "cluster_domain", "local"),
        ],
    )
    def test_a_natural_value_is_taken(self, text: str, field: str, value: object) -> None:
        assert values_of(text) == {field: value}

    @pytest.mark.parametrize("null", ["", "~", "null"])
    def test_null_is_as_good_as_no_key(self, null: str) -> None:
        assert values_of(f"port: 1\ncluster_domain: {null}\ndns_servers: {null}") == {"port": 1}

    @pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n", "~", "{}", "\ufeff"])
    def test_an_empty_file_says_nothing(self, text: str) -> None:
        assert read(text, "f.yaml") == ConfigFile({}, ())

    def test_no_key_reads_every_variable(self) -> None:
        assert {option.key for option in OPTIONS} >= {"host", "port", "proxy_timeout_seconds"}
        for option in OPTIONS:
            assert read(f"{option.key}: ", "f.yaml").faults == ()


class TestFaults:
    @pytest.mark.parametrize(
        ("key", "meant"),
        [
            ("proxy_timeout_second", "proxy_timeout_seconds"),
            ("PROXY_TIMEOUT_SECONDS", "proxy_timeout_seconds"),
            ("--proxy-timeout-seconds", "proxy_timeout_seconds"),
            ("max_body", "max_request_body_bytes"),
            ("auth_token", "router_auth_token"),
            ("ports", "port"),
        ],
    )
    def test_an_unknown_key_comes_with_the_one_that_was_meant(self, key: str, meant: str) -> None:
        assert faults_of(f"port: 1\n{key}: 2") == [f"f.yaml:2: {key}: unknown key; did you mean {meant}?"]

    def test_a_key_like_no_other_comes_without(self) -> None:
        assert faults_of("zzz: 1") == ["f.yaml:1: zzz: unknown key"]

    def test_a_key_that_is_no_name_is_unknown(self) -> None:
        assert faults_of("? [a]\n: 1\n<<: {port: 1}") == [
            "f.yaml:1: a list: unknown key",
            "f.yaml:3: <<: unknown key",
        ]

    def test_a_key_twice_is_a_fault_even_with_the_same_value(self) -> None:
        file = read("port: 1\n\nport: 1", "f.yaml")
        assert file == ConfigFile({"port": 1}, ("f.yaml:3: port: the key is there twice, first in line 1",))

    @pytest.mark.parametrize(
        ("line", "fault"),
        [
            ("port: 70000", "port: invalid value '70000': not a port"),
            ("port: 1_000", "port: invalid value '1_000': not a whole number"),
            ("port: [1]", "port: expected a single value, not a list"),
            ("port: {a: 1}", "port: expected a single value, not a mapping"),
            ("dns_servers: {a: 1}", "dns_servers: expected a list or a single value, not a mapping"),
            ("dns_servers: [[1]]", "dns_servers: expected a list of single values, not a list"),
            ("dns_servers: [dns]", "dns_servers: invalid value 'dns': 'dns' is not an address with an"),
            ("port: !mine 1", "port: the tag !mine has no place here"),
            ("port: !!python/name:os.system", "port: the tag tag:yaml.org,2002:python/name:os.system has"),
            ("access_log: maybe", "access_log: invalid value 'maybe': neither true nor false"),
            # What the reference router survives, it survives in the environment.
            ("cluster_domain: a b", "cluster_domain: invalid value 'a b': not a domain name"),
        ],
    )
    def test_a_wrong_value_is_told_with_its_line(self, line: str, fault: str) -> None:
        (told,) = faults_of(f"# one\n\n{line}")
        assert told.startswith(f"f.yaml:3: {fault}")

    def test_all_faults_are_told_and_what_is_right_is_kept(self) -> None:
        file = read("a: 1\nport: x\nhost: h\nproxy_timeout_seconds: 0\nhost: i", "f.yaml")
        assert file.values == {"host": "h"}
        assert [fault.split(":")[1] for fault in file.faults] == ["1", "2", "4", "5"]

    @pytest.mark.parametrize(
        ("text", "fault"),
        [
            ("port: [1", "f.yaml:1:9: while parsing a flow sequence, "),
            ("port: 1\nhost: a: b", "f.yaml:2:8: mapping values are not allowed here"),
            ("port: *x", "f.yaml:1:7: found undefined alias 'x'"),
            ("port: 1\n---\nport: 2", "f.yaml:2:1: expected a single document in the stream, "),
            ("\tport: 1", "f.yaml:1:1: while scanning for the next token, "),
            ("port: \x01", "f.yaml: unacceptable character #x0001"),
            ("[" * 100_000, "f.yaml: maximum recursion depth exceeded"),
            ("- port", "f.yaml: expected keys and values, not a list"),
            ("port", "f.yaml: expected keys and values, not a single value"),
        ],
    )
    def test_what_is_no_file_of_settings_is_one_fault(self, text: str, fault: str) -> None:
        (told,) = faults_of(text)
        assert told.startswith(fault)

    @given(st.text(alphabet=st.sampled_from("port:hos [1]{}-,'\"\n\t&*!|>%~#?\x00\ud800é"), max_size=60))
    def test_any_text_is_values_or_faults(self, text: str) -> None:
        file = read(text, "f.yaml")
        assert all(fault.startswith("f.yaml:") and "\n" not in fault for fault in file.faults)


LABEL = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
TOKEN = st.from_regex(parsers._TOKEN, fullmatch=True)
ADDRESS = st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(str)
TEXT = st.text(alphabet=st.characters(exclude_characters="\0"), max_size=20)
SECONDS = st.floats(min_value=0.0, allow_nan=False, allow_infinity=False).map(repr)
COUNT = st.integers(0, 10**15 - 1).map(str)

# From the parser of an option to texts that it takes.
TEXTS: dict[Any, st.SearchStrategy[str]] = {
    str: TEXT,
    str.strip: TEXT,
    parsers.host: LABEL,
    parsers.file: TEXT.filter(lambda text: "\0" not in text),
    parsers.count: COUNT,
    parsers.port: st.integers(0, 65535).map(str),
    parsers.port_or_off: st.integers(0, 65535).map(str) | st.just("off"),
    parsers.workers: st.integers(1, 256).map(str) | st.just("auto"),
    parsers.fraction: st.floats(0, 1).map(repr),
    parsers.domain: st.lists(LABEL, min_size=1, max_size=3).map(".".join),
    parsers.token: TOKEN,
    parsers.tokens: st.lists(TOKEN.filter(lambda text: text.strip()), max_size=3).map(",".join),
    parsers.servers: st.lists(
        ADDRESS | st.ip_addresses(v=6).map(lambda address: f"[{address}]:53"), max_size=3
    ).map(",".join),
    parsers.networks: st.lists(
        st.tuples(ADDRESS, st.integers(0, 32)).map(lambda pair: f"{pair[0]}/{pair[1]}"), max_size=3
    ).map(",".join),
}


def texts_of(option: Option) -> st.SearchStrategy[str]:
    if option.values:
        return st.sampled_from(option.values)
    return TEXTS.get(option.parse, SECONDS.filter(lambda text: float(text) > 0))


ENVIRONS = st.fixed_dictionaries(
    {}, optional={option.variable: texts_of(option) for option in OPTIONS if option.variable}
)


def complete(environ: dict[str, str]) -> dict[str, str]:
    """Add what the others need, so that no cross-check fails."""
    files = {f"TLS_{name}_FILE": "/tls" for name in ("CERT", "KEY", "CLIENT_CA")}
    return {**environ, **files, "ROUTER_AUTH_TOKEN": environ.get("ROUTER_AUTH_TOKEN", "").strip() or "t"}


class TestTheWayBack:
    @given(ENVIRONS.map(complete), LABEL, st.integers(0, 65535))
    def test_what_is_written_reads_as_the_same_settings(
        self, environ: dict[str, str], host: str, port: int
    ) -> None:
        effective = explain({"host": host, "port": str(port)}, environ, lambda _: None)
        text = write(*effective)
        file = read(text, "f.yaml")
        assert file.faults == ()
        token = {"ROUTER_AUTH_TOKEN": environ["ROUTER_AUTH_TOKEN"]}
        assert explain({}, token, lambda _: None, file).settings == effective.settings
        # Other programs that read YAML see the same keys.
        assert set(yaml.safe_load(text)) == {option.key for option in OPTIONS if not option.secret}

    @pytest.mark.parametrize(
        "endpoint", ["a\nb", "a\n", " \n ", "a # b", "a: b", "...", "off", "~", "1", "'\"", "\udc80\x85"]
    )
    def test_odd_texts_stay_on_their_line(self, endpoint: str) -> None:
        text = write(Settings(otel_endpoint=endpoint), {"otel_endpoint": "flag"})
        assert text.count("\n") == write(Settings(), {}).count("\n")
        assert values_of(text)["otel_endpoint"] == endpoint

    def test_each_line_tells_where_its_value_came_from(self) -> None:
        effective = explain(
            {"port": "9"}, {"METRICS_PORT": "off"}, lambda _: None, read("workers: auto", "f.yaml")
        )
        lines = write(*effective).splitlines()
        assert lines[0] == "# The effective settings of fastrouter; this is a file for --config."
        assert [line.removeprefix("# ") for line in lines if line.removeprefix("# ") in GROUPS] == list(
            GROUPS
        )
        for line in (
            "port: 9  # flag",
            "workers: auto  # file",
            "metrics_port: 'off'  # environment",
            "proxy_timeout_seconds: 180  # default",
            "dns_servers: []  # default",
            "upgrade_protocols: [websocket]  # default",
            "allow_unauthenticated_router: null  # default",
            "# router_auth_token: unset  # default",
        ):
            assert line in lines

    def test_the_token_is_never_shown(self) -> None:
        text = write(Settings(auth_token="hunter2"), {"auth_token": "environment"})
        assert "hunter2" not in text
        assert "# router_auth_token: set, and never shown  # environment" in text.splitlines()
