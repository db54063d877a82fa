"""The embedded development key: one per data directory, readable only by its owner."""

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from app.auth.signing_keys import DEFAULT_AUDIENCE, EMBEDDED_ISSUER, EmbeddedIssuer, algorithm_of
from app.core.private_file import PrivateFileRefused, create_private_file

FIRST_START = """
import sys
from pathlib import Path
from app.auth.signing_keys import EmbeddedIssuer
print("ready", flush=True)
sys.stdin.readline()
print(EmbeddedIssuer.load_or_create(Path(sys.argv[1])).kid)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "auth" / "signing-key.pem"


def pem_of(key: ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class TestLoadOrCreate:
    def test_creates_a_private_key_file(self, tmp_path: Path, file: Path) -> None:
        EmbeddedIssuer.load_or_create(tmp_path)

        assert file.stat().st_mode & 0o777 == 0o600
        assert file.parent.stat().st_mode & 0o777 == 0o700

    def test_loads_the_same_key_again(self, tmp_path: Path) -> None:
        first = EmbeddedIssuer.load_or_create(tmp_path)
        second = EmbeddedIssuer.load_or_create(tmp_path)

        assert first.public_key == second.public_key
        assert first.kid == second.kid

    def test_concurrent_first_starts_use_the_same_key(self, tmp_path: Path) -> None:
        starts = [
            subprocess.Popen(
                [sys.executable, "-c", FIRST_START, str(tmp_path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in range(3)
        ]
        for start in starts:
            assert start.stdout is not None
            assert start.stdout.readline() == "ready\n"
        for start in starts:
            assert start.stdin is not None
            start.stdin.write("\n")
            start.stdin.flush()
        kids = {start.communicate(timeout=30)[0] for start in starts}

        assert kids == {f"{EmbeddedIssuer.load_or_create(tmp_path).kid}\n"}

    def test_rejects_a_file_that_other_users_may_read(self, tmp_path: Path, file: Path) -> None:
        EmbeddedIssuer.load_or_create(tmp_path)
        file.chmod(0o644)

        with pytest.raises(PrivateFileRefused, match="chmod 600"):
            EmbeddedIssuer.load_or_create(tmp_path)

    @pytest.mark.parametrize(
        "content",
        [b"", b"canary-9f2c41d7a0", b"-----BEGIN PRIVATE KEY-----\ncanary\n-----END PRIVATE KEY-----\n"],
    )
    def test_rejects_other_content_without_quoting_it(
        self, tmp_path: Path, file: Path, content: bytes
    ) -> None:
        create_private_file(file, content)

        with pytest.raises(PrivateFileRefused, match="does not contain an Ed25519 private key") as refused:
            EmbeddedIssuer.load_or_create(tmp_path)
        assert "canary" not in str(refused.value)
        assert refused.value.__context__ is None

    def test_rejects_another_kind_of_key(self, tmp_path: Path, file: Path) -> None:
        create_private_file(file, pem_of(ec.generate_private_key(ec.SECP256R1())))

        with pytest.raises(PrivateFileRefused, match="does not contain an Ed25519 private key"):
            EmbeddedIssuer.load_or_create(tmp_path)


class TestIssue:
    def test_has_the_required_claims(self, tmp_path: Path) -> None:
        issuer = EmbeddedIssuer.load_or_create(tmp_path)

        token = issuer.issue(
            subject="dev",
            organization_id="org_acme",
            scopes={"usage:read", "audit:read"},
            ttl=timedelta(hours=1),
        )

        claims = jwt.decode(
            token, issuer.public_key, algorithms=["EdDSA"], audience=DEFAULT_AUDIENCE, issuer=EMBEDDED_ISSUER
        )
        assert claims["exp"] - claims["iat"] == 3600
        assert (claims["sub"], claims["org"]) == ("dev", "org_acme")
        assert claims["scope"] == "audit:read usage:read"
        assert jwt.get_unverified_header(token) == {"alg": "EdDSA", "typ": "JWT", "kid": issuer.kid}

    def test_key_id_is_the_thumbprint_of_rfc_8037(self) -> None:
        seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
        key = ed25519.Ed25519PrivateKey.from_private_bytes(seed)

        issuer = EmbeddedIssuer(key, issuer="i", audience="a")

        assert issuer.kid == "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"


class TestKeyFor:
    async def test_finds_only_its_own_key(self, tmp_path: Path) -> None:
        issuer = EmbeddedIssuer.load_or_create(tmp_path)

        assert await issuer.key_for(issuer.kid, "EdDSA") == issuer.public_key
        assert await issuer.key_for(None, "EdDSA") == issuer.public_key
        assert await issuer.key_for("another", "EdDSA") is None
        assert await issuer.key_for(issuer.kid, "RS256") is None


class TestAlgorithmOf:
    def test_follows_from_the_kind_of_key(self) -> None:
        assert algorithm_of(ed25519.Ed25519PrivateKey.generate().public_key()) == "EdDSA"
        assert algorithm_of(ec.generate_private_key(ec.SECP256R1()).public_key()) == "ES256"
        assert algorithm_of(rsa.generate_private_key(65537, 2048).public_key()) == "RS256"

    def test_accepts_no_other_kind_of_key(self) -> None:
        assert algorithm_of(ed448.Ed448PrivateKey.generate().public_key()) is None
        assert algorithm_of(ec.generate_private_key(ec.SECP384R1()).public_key()) is None
        assert algorithm_of(rsa.generate_private_key(65537, 1024).public_key()) is None  # noqa: S505  # must be rejected
        assert algorithm_of(b"secret") is None
