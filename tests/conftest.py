"""Fixtures that every test may use."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping

import pytest
import uvloop
from hypothesis import HealthCheck, settings

from fastrouter.net import listener

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile(
    "long", deadline=None, max_examples=2000, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

# Routers that run as processes of their own: beside each other, none may insist on the default ports.
# What they send is compared byte for byte.
os.environ |= {"HEALTH_PORT": "0", "METRICS_PORT": "0", "REQUEST_ID": "false"}

# The loopback interface completes a handshake at once; thousands of routers end here one after the other.
listener.HANDSHAKE_SECONDS = 0.0


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run the tests on the event loop that the router runs on."""
    return {"uvloop": uvloop.new_event_loop}
