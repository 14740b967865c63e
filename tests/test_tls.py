"""The files of TLS: loaded, refused, and loaded again when they change."""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from fastrouter.settings import Settings
from fastrouter.tls import CertificateError, Certificates, certificates_of
from tests.certificates import Files, authority, certificate, client_context, expired


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path).write(certificate())


@pytest.fixture
def certificates(files: Files, clock: Clock) -> Certificates:
    return Certificates(str(files.cert), str(files.key), clock=clock)


def look(certificates: Certificates, clock: Clock, seconds: float = 1.0) -> bool:
    clock.now += seconds
    return certificates.reload_if_changed()


def handshake(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Shake hands in memory, and exchange one byte each way: TLS 1.3 tells of a refusal only then."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    serving = server.wrap_bio(up, down, server_side=True)
    asking = client.wrap_bio(down, up, server_hostname="localhost")

    def step(action: Callable[[], object]) -> None:
        with contextlib.suppress(ssl.SSLWantReadError):
            action()

    for _ in range(3):
        step(asking.do_handshake)
        step(serving.do_handshake)
    asking.write(b"?")
    assert serving.read(1) == b"?"
    serving.write(b"!")
    assert asking.read(1) == b"!"
    return serving, asking


def served(context: ssl.SSLContext, by: str = "") -> bytes:
    """Return the certificate that a client gets."""
    _, asking = handshake(context, client_context(by))
    found = asking.getpeercert(binary_form=True)
    assert found is not None
    return found


def der(leaf: trustme.LeafCert) -> bytes:
    return ssl.PEM_cert_to_DER_cert(leaf.cert_chain_pems[0].bytes().decode())


class TestTheContext:
    def test_it_serves_the_certificate_with_its_chain(self, certificates: Certificates) -> None:
        assert served(certificates.context) == der(certificate())

    def test_the_key_may_be_in_the_file_of_the_certificate(self, tmp_path: Path) -> None:
        both = tmp_path / "both.pem"
        both.write_bytes(certificate().private_key_and_cert_chain_pem.bytes())
        assert served(Certificates(str(both)).context) == der(certificate())

    def test_an_intermediate_authority_is_sent_along(self, tmp_path: Path) -> None:
        between = authority().create_child_ca()
        files = Files(tmp_path).write(between.issue_cert("localhost"))
        handshake(Certificates(str(files.cert), str(files.key)).context, client_context())

    @pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
    def test_tls_1_2_and_1_3_are_spoken(self, certificates: Certificates, version: ssl.TLSVersion) -> None:
        client = client_context()
        client.minimum_version = client.maximum_version = version
        serving, _ = handshake(certificates.context, client)
        assert serving.version() == version.name.replace("_", ".")
        assert serving.compression() is None

    def test_older_ones_are_refused(self, certificates: Certificates) -> None:
        assert certificates.context.minimum_version is ssl.TLSVersion.TLSv1_2
        client = client_context()
        client.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            client.minimum_version = ssl.TLSVersion.TLSv1
        with pytest.warns(DeprecationWarning, match="TLSv1"):
            client.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(ssl.SSLError, match=r"(?i)protocol"):
            handshake(certificates.context, client)

    def test_a_cipher_without_forward_secrecy_is_refused(self, certificates: Certificates) -> None:
        client = client_context()
        client.maximum_version = ssl.TLSVersion.TLSv1_2
        client.set_ciphers("AES128-GCM-SHA256:AES256-SHA")
        with pytest.raises(ssl.SSLError, match="NO_SHARED_CIPHER"):
            handshake(certificates.context, client)

    @pytest.mark.parametrize(
        ("offered", "chosen"),
        [(["http/1.1"], "http/1.1"), (["h2", "http/1.1"], "http/1.1"), (["h2"], None), ([], None)],
    )
    def test_alpn_offers_http_1_1_and_nothing_else(
        self, certificates: Certificates, offered: list[str], chosen: str | None
    ) -> None:
        client = client_context()
        if offered:
            client.set_alpn_protocols(offered)
        serving, asking = handshake(certificates.context, client)
        assert serving.selected_alpn_protocol() == asking.selected_alpn_protocol() == chosen

    def test_a_session_is_resumed(self, certificates: Certificates) -> None:
        client = client_context()
        client.maximum_version = ssl.TLSVersion.TLSv1_2  # its session is there as soon as the handshake is
        _, first = handshake(certificates.context, client)
        up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
        serving = certificates.context.wrap_bio(up, down, server_side=True)
        asking = client.wrap_bio(down, up, server_hostname="localhost", session=first.session)
        for side in (asking, serving, asking):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
        assert asking.session_reused


class TestMutualTls:
    def context(self, files: Files, mode: str) -> ssl.SSLContext:
        return Certificates(str(files.cert), str(files.key), str(files.ca), mode).context

    @pytest.fixture
    def files(self, tmp_path: Path) -> Files:
        return Files(tmp_path).write(certificate(), clients="clients")

    def test_required_takes_a_certificate_of_the_authority(self, files: Files) -> None:
        own = certificate("client", by="clients")
        serving, _ = handshake(self.context(files, "required"), client_context(own=own))
        assert serving.getpeercert(binary_form=True) == der(own)

    def test_required_refuses_who_has_none(self, files: Files) -> None:
        with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
            handshake(self.context(files, "required"), client_context())

    @pytest.mark.parametrize("mode", ["optional", "required"])
    def test_one_of_another_authority_is_refused(self, files: Files, mode: str) -> None:
        own = certificate("client", by="strangers")
        with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
            handshake(self.context(files, mode), client_context(own=own))

    def test_optional_takes_who_has_none_and_who_has_one(self, files: Files) -> None:
        context = self.context(files, "optional")
        serving, _ = handshake(context, client_context())
        assert serving.getpeercert(binary_form=True) is None
        serving, _ = handshake(context, client_context(own=certificate("client", by="clients")))
        assert serving.getpeercert(binary_form=True)

    def test_off_asks_for_none(self, files: Files) -> None:
        own = certificate("client", by="strangers")
        serving, _ = handshake(self.context(files, "off"), client_context(own=own))
        assert serving.getpeercert(binary_form=True) is None

    def test_off_does_not_even_read_the_authorities(self, files: Files) -> None:
        files.ca.unlink()
        self.context(files, "off")

    @pytest.mark.parametrize("mode", ["optional", "required"])
    def test_it_needs_the_authorities(self, files: Files, mode: str) -> None:
        with pytest.raises(CertificateError, match=f"MTLS_MODE={mode} needs TLS_CLIENT_CA_FILE"):
            Certificates(str(files.cert), str(files.key), "", mode)


class TestAtTheStart:
    @pytest.mark.parametrize(
        ("name", "variable"),
        [("cert", "TLS_CERT_FILE"), ("key", "TLS_KEY_FILE"), ("ca", "TLS_CLIENT_CA_FILE")],
    )
    @pytest.mark.parametrize(
        ("spoil", "fault"),
        [
            (Path.unlink, "No such file or directory"),
            (lambda path: path.write_text("x"), "in PEM form"),
            (lambda path: (path.unlink(), path.mkdir()), "Is a directory"),
        ],
        ids=["missing", "no PEM", "directory"],
    )
    def test_a_file_that_cannot_be_used_is_named(
        self, files: Files, name: str, variable: str, spoil: Callable[[Path], object], fault: str
    ) -> None:
        path = cast(Path, getattr(files, name))
        spoil(path)
        with pytest.raises(CertificateError, match=f"^{variable} {path}: .*{fault}"):
            Certificates(str(files.cert), str(files.key), str(files.ca), "required")

    @pytest.mark.parametrize("name", ["cert", "key", "ca"])
    def test_pem_that_holds_nonsense_is_named(self, files: Files, name: str) -> None:
        path = cast(Path, getattr(files, name))
        kind = "PRIVATE KEY" if name == "key" else "CERTIFICATE"
        path.write_text(f"-----BEGIN {kind}-----\nAAAA\n-----END {kind}-----\n")
        with pytest.raises(CertificateError, match=f"{path}.*: OpenSSL cannot read it: "):
            Certificates(str(files.cert), str(files.key), str(files.ca), "required")

    def test_the_key_of_another_certificate(self, files: Files) -> None:
        files.key.write_bytes(certificate("other").private_key_pem.bytes())
        with pytest.raises(CertificateError, match="the private key is not that of the certificate"):
            Certificates(str(files.cert), str(files.key))

    def test_a_certificate_without_a_key(self, files: Files) -> None:
        with pytest.raises(CertificateError, match=r"TLS_KEY_FILE .*tls.crt: no private key in PEM form"):
            Certificates(str(files.cert))

    def test_an_encrypted_key_asks_nobody(self, files: Files) -> None:
        key = serialization.load_pem_private_key(files.key.read_bytes(), None)
        files.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.BestAvailableEncryption(b"secret"),
            )
        )
        with pytest.raises(CertificateError, match="the private key is encrypted"):
            Certificates(str(files.cert), str(files.key))

    def test_an_expired_certificate_is_a_warning(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        files = Files(tmp_path).write(expired())
        Certificates(str(files.cert), str(files.key))
        assert [each.message for each in caplog.records if each.levelno >= logging.WARNING] == [
            "the TLS certificate has expired"
        ]

    def test_a_valid_one_tells_until_when(self, files: Files, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.INFO):
            Certificates(str(files.cert), str(files.key))
        (record,) = caplog.records
        assert record.message == "TLS certificate loaded"
        assert record.__dict__["not_after"].endswith(" GMT")


class TestSettings:
    def test_no_certificate_means_no_tls(self) -> None:
        assert certificates_of(Settings()) is None

    def test_all_four_are_used(self, files: Files) -> None:
        found = certificates_of(
            Settings(
                tls_cert_file=str(files.cert),
                tls_key_file=str(files.key),
                tls_client_ca_file=str(files.ca),
                mtls_mode="optional",
            )
        )
        assert repr(found) == f"<Certificates {files.cert} mtls=optional reloads=0>"
        assert found is not None
        assert found.context.verify_mode is ssl.CERT_OPTIONAL

    @pytest.mark.parametrize(
        ("settings", "named"),
        [
            (Settings(tls_key_file="k"), "TLS_KEY_FILE"),
            (Settings(tls_client_ca_file="c"), "TLS_CLIENT_CA_FILE"),
            (Settings(mtls_mode="required"), "MTLS_MODE=required"),
        ],
    )
    def test_what_only_makes_sense_with_a_certificate(self, settings: Settings, named: str) -> None:
        """Silence would be a port without TLS where somebody asked for it."""
        with pytest.raises(CertificateError, match=f"^{named} is set without TLS_CERT_FILE"):
            certificates_of(settings)


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.__dict__["error"] for each in caplog.records if each.levelno == logging.WARNING]


class TestReload:
    def test_nothing_is_done_while_nothing_changes(self, certificates: Certificates, clock: Clock) -> None:
        before = certificates.context
        assert not any(look(certificates, clock) for _ in range(5))
        assert certificates.context is before

    def test_new_files_are_a_new_context(
        self, certificates: Certificates, clock: Clock, files: Files, caplog: pytest.LogCaptureFixture
    ) -> None:
        before = certificates.context
        files.write(certificate("other", by="new"))
        with caplog.at_level(logging.INFO):
            assert look(certificates, clock)
        assert caplog.messages == ["TLS certificate reloaded"]
        assert certificates.context is not before
        assert served(before) == der(certificate())
        assert certificates.reloads == 1
        assert not look(certificates, clock)

    def test_the_files_are_looked_at_once_a_second(
        self, certificates: Certificates, clock: Clock, files: Files
    ) -> None:
        files.write(certificate("other"))
        assert not look(certificates, clock, 0.25)
        assert not look(certificates, clock, 0.5)
        assert look(certificates, clock, 0.25)

    def test_kubernetes_swaps_a_symbolic_link(self, tmp_path: Path, clock: Clock) -> None:
        for day, leaf in (("..day1", certificate()), ("..day2", certificate("other"))):
            (tmp_path / day).mkdir()
            Files(tmp_path / day).write(leaf)
        data = tmp_path / "..data"
        data.symlink_to("..day1")
        for name in ("tls.crt", "tls.key", "ca.crt"):
            (tmp_path / name).symlink_to(f"..data/{name}")
        mounted = Files(tmp_path)
        certificates = Certificates(str(mounted.cert), str(mounted.key), clock=clock)
        (tmp_path / "..data_tmp").symlink_to("..day2")
        (tmp_path / "..data_tmp").rename(data)
        assert look(certificates, clock)
        assert served_anyhow(certificates.context) == der(certificate("other"))

    def test_a_change_that_keeps_size_and_time_of_change_is_seen(
        self, certificates: Certificates, clock: Clock, files: Files
    ) -> None:
        stat = files.ca.stat()
        renewed = Certificates(str(files.cert), str(files.key), str(files.ca), "required", clock=clock)
        files.ca.write_bytes(files.ca.read_bytes())
        os.utime(files.ca, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert look(renewed, clock)
        assert not look(certificates, clock)  # for which the authorities do not count

    def test_other_authorities_are_no_addition(self, tmp_path: Path, clock: Clock) -> None:
        files = Files(tmp_path).write(certificate(), clients="clients")
        found = Certificates(str(files.cert), str(files.key), str(files.ca), "required", clock=clock)
        own = client_context(own=certificate("client", by="clients"))
        handshake(found.context, own)
        files.ca.write_bytes(authority("strangers").cert_pem.bytes())
        assert look(found, clock)
        with pytest.raises(ssl.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
            handshake(found.context, own)
        handshake(found.context, client_context(own=certificate("client", by="strangers")))

    @pytest.mark.parametrize("name", ["cert", "key", "ca"])
    @pytest.mark.parametrize("how", ["nonsense", "gone"])
    def test_what_cannot_be_used_keeps_the_old_one_and_says_so_once_per_change(
        self, files: Files, clock: Clock, caplog: pytest.LogCaptureFixture, name: str, how: str
    ) -> None:
        found = Certificates(str(files.cert), str(files.key), str(files.ca), "optional", clock=clock)
        before = found.context
        path = cast(Path, getattr(files, name))
        good = path.read_bytes()
        path.unlink()
        if how == "nonsense":
            path.write_bytes(b"nonsense")
        assert not any(look(found, clock, 0.5) for _ in range(20))
        assert found.context is before
        (warning,) = warnings_in(caplog)
        assert str(path) in warning
        path.write_bytes(b"other nonsense")
        assert not any(look(found, clock, 0.5) for _ in range(20))
        assert len(warnings_in(caplog)) == 2
        path.write_bytes(good)
        assert look(found, clock)
        assert len(warnings_in(caplog)) == 2

    def test_a_certificate_that_is_there_before_its_key_is_no_fault(
        self, certificates: Certificates, clock: Clock, files: Files, caplog: pytest.LogCaptureFixture
    ) -> None:
        new = certificate("other")
        files.cert.write_bytes(new.cert_chain_pems[0].bytes())
        assert not look(certificates, clock)
        assert not look(certificates, clock)
        files.key.write_bytes(new.private_key_pem.bytes())
        assert look(certificates, clock)
        assert warnings_in(caplog) == []
        assert served_anyhow(certificates.context) == der(new)

    def test_one_that_stays_without_its_key_is(
        self, certificates: Certificates, clock: Clock, files: Files, caplog: pytest.LogCaptureFixture
    ) -> None:
        files.cert.write_bytes(certificate("other").cert_chain_pems[0].bytes())
        looked = [(look(certificates, clock), len(warnings_in(caplog))) for _ in range(5)]
        assert looked == [(False, 0), (False, 0), (False, 1), (False, 1), (False, 1)]
        assert "the private key is not that of the certificate" in warnings_in(caplog)[0]

    def test_files_that_change_while_they_are_read_are_read_again(
        self, certificates: Certificates, clock: Clock, files: Files, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        load = certificates._load

        def slowly() -> ssl.SSLContext:
            loaded = load()
            monkeypatch.undo()
            files.write(certificate("third"))
            return loaded

        files.write(certificate("other"))
        monkeypatch.setattr(certificates, "_load", slowly)
        assert not look(certificates, clock)
        assert look(certificates, clock)
        assert served_anyhow(certificates.context) == der(certificate("third"))

    def test_a_look_opens_no_file(
        self, certificates: Certificates, clock: Clock, files: Files, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        opened = []

        def load() -> ssl.SSLContext:
            opened.append(1)
            return certificates.context

        monkeypatch.setattr(certificates, "_load", load)
        assert not look(certificates, clock)
        assert opened == []
        files.write(certificate("other"))
        assert look(certificates, clock)
        assert opened == [1]


def served_anyhow(context: ssl.SSLContext) -> bytes:
    """Return the certificate that a client gets who does not look at the name in it."""
    client = client_context()
    client.check_hostname = False
    _, asking = handshake(context, client)
    found = asking.getpeercert(binary_form=True)
    assert found is not None
    return found
