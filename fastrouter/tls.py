"""The certificate of the TLS port, its key, and the authorities of client certificates: docs/tls.md."""

from __future__ import annotations

import contextlib
import logging
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from fastrouter.settings import Settings

# The files are looked at so often, and no more: the sweep calls four times as often.
_INTERVAL_SECONDS: Final = 1.0

# Certificate and key may be written one after the other: so long, a pair that does not fit is no fault.
_PATIENCE_SECONDS: Final = 2.0

_VERIFY: Final = {"off": ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, "required": ssl.CERT_REQUIRED}

# X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED of OpenSSL.
_OUT_OF_DATE: Final = {9: "is not yet valid", 10: "has expired"}

Stamp = tuple[tuple[int, ...] | None, ...]

_log = logging.getLogger(__name__)


class CertificateError(Exception):
    """A file cannot be used; the text names the variable, the file and the fault."""


class Certificates:
    """The TLS context for new connections; a new one when the files change.

    ``context`` is never changed once it was made, so connections that have it go on as they began.
    """

    def __init__(
        self,
        cert_file: str,
        key_file: str = "",
        client_ca_file: str = "",
        mtls_mode: str = "off",
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Load the files; raise ``CertificateError``. Without ``key_file`` the key is in ``cert_file``."""
        self._cert_file = cert_file
        self._key_file = key_file or cert_file
        self._mode = mtls_mode
        self._client_ca_file = client_ca_file if mtls_mode != "off" else ""
        if mtls_mode != "off" and not client_ca_file:
            raise CertificateError(f"MTLS_MODE={mtls_mode} needs TLS_CLIENT_CA_FILE")
        self._clock = clock
        self._looked = clock()
        self._settled = self._suspect = self._stamp()
        self._suspected = 0.0
        self.reloads = 0
        self.context = self._load()
        self._tell("TLS certificate loaded")

    def __repr__(self) -> str:
        return f"<Certificates {self._cert_file} mtls={self._mode} reloads={self.reloads}>"

    def reload_if_changed(self) -> bool:
        """Look at the files, once a second at most; return whether there is a new context.

        Files that cannot be used leave the old context as it is, and are tried again until they have not
        changed for two seconds; then one warning says why, and the next change is waited for.
        """
        now = self._clock()
        if now < self._looked + _INTERVAL_SECONDS:
            return False
        self._looked = now
        stamp = self._stamp()
        if stamp == self._settled:
            return False
        try:
            context = self._load()
        except CertificateError as error:
            self._failed(stamp, now, error)
            return False
        if stamp != self._stamp():
            return False  # changed while it was read: who knows what was loaded
        self._settled = stamp
        self.context = context
        self.reloads += 1
        self._tell("TLS certificate reloaded")
        return True

    def _failed(self, stamp: Stamp, now: float, error: CertificateError) -> None:
        if stamp != self._suspect:
            self._suspect = stamp
            self._suspected = now
        if now >= self._suspected + _PATIENCE_SECONDS:
            self._settled = stamp
            _log.warning(
                "TLS files not reloaded: the certificate before is kept", extra={"error": str(error)}
            )

    def _files(self) -> dict[str, str]:
        files = {"TLS_CERT_FILE": self._cert_file, "TLS_KEY_FILE": self._key_file}
        return files | ({"TLS_CLIENT_CA_FILE": self._client_ca_file} if self._client_ca_file else {})

    def _stamp(self) -> Stamp:
        """Return what changes with the files, those that symbolic links lead to."""
        return tuple(_stamp_of(path) for path in self._files().values())

    def _load(self) -> ssl.SSLContext:
        """Return a context of the files as they are now; raise ``CertificateError``."""
        for variable, path in self._files().items():
            mark = b"PRIVATE KEY-----" if variable == "TLS_KEY_FILE" else b"-----BEGIN CERTIFICATE-----"
            _check(variable, path, mark)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        context.set_alpn_protocols(["http/1.1"])
        try:
            context.load_cert_chain(self._cert_file, self._key_file, _no_password)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise CertificateError(f"{self._cert_file} and {self._key_file}: {_reason(error)}") from error
        if self._client_ca_file:
            try:
                context.load_verify_locations(self._client_ca_file)
            except OSError as error:
                raise CertificateError(
                    f"TLS_CLIENT_CA_FILE {self._client_ca_file}: {_reason(error)}"
                ) from error
            context.verify_mode = _VERIFY[self._mode]
        return context

    def _tell(self, message: str) -> None:
        """Log what is served from now on, and whether clients will take it."""
        try:
            fault, until = _validity(self._cert_file, self._key_file)
        except (OSError, ValueError):  # changed again since
            return
        shown = {"file": self._cert_file, "mtls": self._mode}
        if fault:
            _log.warning(f"the TLS certificate {fault}", extra=shown)
        _log.info(message, extra=shown | ({"not_after": until} if until else {}))


def certificates_of(settings: Settings) -> Certificates | None:
    """Return the certificates that the settings name, None without any; raise ``CertificateError``."""
    if settings.tls_cert_file:
        return Certificates(
            settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file, settings.mtls_mode
        )
    for name in ("tls_key_file", "tls_client_ca_file"):
        if getattr(settings, name):
            raise CertificateError(f"{name.upper()} is set without TLS_CERT_FILE")
    if settings.mtls_mode != "off":
        raise CertificateError(f"MTLS_MODE={settings.mtls_mode} is set without TLS_CERT_FILE")
    return None


def _stamp_of(path: str) -> tuple[int, ...] | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _check(variable: str, path: str, mark: bytes) -> None:
    """Raise ``CertificateError`` for a file that cannot be read or is no PEM: OpenSSL says less."""
    try:
        text = Path(path).read_bytes()
    except OSError as error:
        raise CertificateError(f"{variable} {path}: {error.strerror}") from error
    if mark not in text:
        kind = "private key" if b"KEY" in mark else "certificate"
        raise CertificateError(f"{variable} {path}: no {kind} in PEM form")


def _no_password() -> str:
    """Refuse, where OpenSSL would ask on the terminal."""
    raise ValueError("the private key is encrypted, and nobody is there to ask for its password")


def _reason(error: OSError | ValueError) -> str:
    if isinstance(error, ssl.SSLError):
        if error.reason == "KEY_VALUES_MISMATCH":
            return "the private key is not that of the certificate"
        return f"OpenSSL cannot read it: {error.reason or error}"
    return str(error)


def _validity(cert_file: str, key_file: str) -> tuple[str, str]:
    """Return what is wrong with the dates of a certificate, or until when it is valid.

    Asked of OpenSSL in a handshake in memory whose client trusts this one certificate: the standard library
    reads the dates of no other.
    """
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(cert_file, key_file, _no_password)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(cert_file)
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    serving = server.wrap_bio(up, down, server_side=True)
    asking = client.wrap_bio(down, up)
    try:
        for side in (asking, serving, asking):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
        certificate = asking.getpeercert() or {}
    except ssl.SSLCertVerificationError as error:
        return _OUT_OF_DATE.get(error.verify_code, ""), ""
    return "", str(certificate.get("notAfter", ""))
