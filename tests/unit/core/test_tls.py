"""TLS contexts: which certificates they trust, and that the environment does not change them."""

import ssl
from pathlib import Path

import pytest
import trustme

from app.core.tls import tls_context


@pytest.fixture
def ca_file(tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    trustme.CA().cert_pem.write_to_path(str(path))
    return path


def authorities(context: ssl.SSLContext) -> int:
    return context.cert_store_stats()["x509_ca"]


class TestTlsContext:
    def test_refuses_old_tls_and_peers_without_a_certificate_for_their_name(self) -> None:
        context = tls_context()

        assert context.minimum_version == ssl.TLSVersion.TLSv1_2
        assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)

    def test_trusts_the_public_roots_and_the_file(self, ca_file: Path) -> None:
        assert authorities(tls_context()) > 50
        assert authorities(tls_context(ca_file)) == authorities(tls_context()) + 1

    def test_trusts_only_the_file_without_public_roots(self, ca_file: Path) -> None:
        assert authorities(tls_context(ca_file, with_public_roots=False)) == 1

    @pytest.mark.parametrize("with_public_roots", [True, False])
    def test_ignores_sslkeylogfile(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ca_file: Path, with_public_roots: bool
    ) -> None:
        monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "secrets"))

        context = tls_context(ca_file, with_public_roots=with_public_roots)

        assert not context.keylog_filename
        assert not (tmp_path / "secrets").exists()
