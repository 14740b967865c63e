"""The effective settings: frozen, and shown without the token."""

from __future__ import annotations

import dataclasses
from ipaddress import ip_network

import pytest

from fastrouter.settings import Settings


def test_settings_do_not_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]


def test_the_log_is_not_told_the_token() -> None:
    shown = Settings(auth_token="secret", trusted_proxies=(ip_network("10.0.0.0/8"),)).shown()
    assert "secret" not in str(shown)
    assert (shown["auth_token"], shown["trusted_proxies"]) == ("***", ["10.0.0.0/8"])
    assert Settings().shown()["auth_token"] == ""


def test_the_log_is_not_told_a_password_of_the_collector() -> None:
    shown = Settings(otel_endpoint="http://user:hunter2@collector:4318/x@y").shown()
    assert shown["otel_endpoint"] == "http://***@collector:4318/x@y"
    assert Settings(otel_endpoint="http://collector:4318").shown()["otel_endpoint"] == "http://collector:4318"
