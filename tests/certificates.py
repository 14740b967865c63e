"""Certificates for tests, made by trustme: an authority, and files as the router reads them."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import trustme


@cache
def _authority(name: str) -> trustme.CA:
    return trustme.CA(organization_name=name or None)


def authority(name: str = "") -> trustme.CA:
    """Return an authority; the same one for the same name."""
    return _authority(name)


@cache
def _certificate(host: str, by: str) -> trustme.LeafCert:
    return authority(by).issue_cert(host, "127.0.0.1")


def certificate(host: str = "localhost", by: str = "") -> trustme.LeafCert:
    """Return a certificate for ``host`` and 127.0.0.1 by that authority; the same one each time."""
    return _certificate(host, by)


@cache
def expired() -> trustme.LeafCert:
    """Return a certificate that was valid until yesterday."""
    return authority().issue_cert("localhost", not_after=datetime.now(UTC) - timedelta(days=1))


@dataclass(frozen=True)
class Files:
    """Certificate, key and the authority of clients in one directory, under Kubernetes' names."""

    directory: Path

    @property
    def cert(self) -> Path:
        return self.directory / "tls.crt"

    @property
    def key(self) -> Path:
        return self.directory / "tls.key"

    @property
    def ca(self) -> Path:
        return self.directory / "ca.crt"

    def write(self, leaf: trustme.LeafCert, clients: str = "") -> Files:
        """Write all three; the authority of that name is the clients'."""
        self.cert.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        self.key.write_bytes(leaf.private_key_pem.bytes())
        self.ca.write_bytes(authority(clients).cert_pem.bytes())
        return self

    def settings(self, mtls_mode: str = "") -> dict[str, object]:
        """Return the router's settings for these files, its port one of the system's choice."""
        found: dict[str, object] = {
            "tls_cert_file": str(self.cert),
            "tls_key_file": str(self.key),
            "https_port": 0,
        }
        if mtls_mode:
            found |= {"tls_client_ca_file": str(self.ca), "mtls_mode": mtls_mode}
        return found


def client_context(by: str = "", own: trustme.LeafCert | None = None) -> ssl.SSLContext:
    """Return a client's context that trusts the authority, with a certificate of its own if told."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without the system's authorities: they take long
    authority(by).configure_trust(context)
    if own is not None:
        own.configure_cert(context)
    return context
