"""Discovery documents, key sets and access tokens in the shapes of identity providers, with other addresses and keys.

Members that the service does not read are there too, because the providers send them.
"""

import base64
import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID

import jwt
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from tests.support.network.fake_issuer import jwk

TENANT = "0f9a1c34-5d2e-4b86-9a70-1c2d3e4f5a6b"
READS = ("credentials:read", "usage:read")


@cache
def rsa_key(name: str) -> rsa.RSAPrivateKey:
    """A key for each name."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def certificate_members(name: str) -> dict[str, Any]:
    """The members `x5c` and `x5t`, which many providers add."""
    key, subject = rsa_key(name), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    start = datetime.now(UTC) - timedelta(days=1)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=3650))
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.DER)
    )
    thumbprint = hashlib.sha1(made, usedforsecurity=False).digest()
    return {
        "x5c": [base64.b64encode(made).decode()],
        "x5t": base64.urlsafe_b64encode(thumbprint).decode().rstrip("="),
    }


def rsa_jwk(name: str, **members: Any) -> dict[str, Any]:
    return jwk(rsa_key(name).public_key(), name, **members)


@dataclass(frozen=True, kw_only=True)
class IdentityProvider:
    """One provider at a base URL.

    Attributes:
        settings: of `BYOK_AUTH`, without the addresses, as docs/how-to/identity-provider.md has them.
        issuer: the path of the issuer.
        jwks: the path of the key set.
        keys: the members of the key set, by the issuer.
        discovery: more members of the discovery document.
        header: what a token has there besides `alg`.
        user: the claims of an admin of the organization `acme`.
        service: those of an internal service.
        signing_key: the name of the key that signs.
    """

    settings: Mapping[str, str]
    issuer: str
    jwks: str
    keys: Callable[[str], list[dict[str, Any]]]
    discovery: Mapping[str, Any] = field(default_factory=dict)
    header: Mapping[str, Any]
    user: Mapping[str, Any]
    service: Mapping[str, Any]
    signing_key: str

    def documents(self, base: str) -> dict[str, Any]:
        """The published documents by their paths."""
        document = {
            "issuer": base + self.issuer,
            "jwks_uri": base + self.jwks,
            "response_types_supported": ["code", "id_token"],
            "id_token_signing_alg_values_supported": ["RS256"],
            **self.discovery,
        }
        return {
            f"{self.issuer.rstrip('/')}/.well-known/openid-configuration": document,
            self.jwks: {"keys": self.keys(base + self.issuer)},
        }

    def token(self, base: str, claims: Mapping[str, Any]) -> str:
        now = int(time.time())
        complete = {"iss": base + self.issuer, "iat": now, "nbf": now, "exp": now + 600, **claims}
        return jwt.encode(
            complete,
            rsa_key(self.signing_key),
            algorithm="RS256",
            headers={**self.header, "kid": self.signing_key},
        )


ENTRA = IdentityProvider(
    settings={
        "AUDIENCE": "7d4f0a52-3b1c-4e6d-8f90-a1b2c3d4e5f6",
        "ORGANIZATION_CLAIM": "byok_org",
        "SCOPE_CLAIMS": "scp,roles",
        "SERVICE_SCOPE": "byok:service",
    },
    issuer=f"/{TENANT}/v2.0",
    jwks=f"/{TENANT}/discovery/v2.0/keys",
    # Without `alg`, and with the issuer of each key.
    keys=lambda issuer: [
        {**rsa_jwk(name, use="sig"), **certificate_members(name)}
        | {"cloud_instance_name": "microsoftonline.com", "issuer": issuer}
        for name in ("entra-1", "entra-2", "entra-3")
    ],
    discovery={
        "tenant_region_scope": "EU",
        "cloud_instance_name": "microsoftonline.com",
        "subject_types_supported": ["pairwise"],
        "request_uri_parameter_supported": False,
    },
    header={"typ": "JWT"},
    user={
        "aud": "7d4f0a52-3b1c-4e6d-8f90-a1b2c3d4e5f6",
        "aio": "AXQAi/8TAAAA",
        "azp": "1b2c3d4e-0000-4000-8000-a1b2c3d4e5f6",
        "azpacr": "1",
        "byok_org": "acme",
        # As many as Entra lists in a token.
        "groups": [str(UUID(int=2**120 + number)) for number in range(200)],
        "oid": "5f6a7b8c-0000-4000-8000-a1b2c3d4e5f6",
        "rh": "0.AXkA",
        "scp": " ".join(READS),
        "sub": "Q2xFd3pTdWJqZWN0T2ZUaGlzQXBwT25seQ",
        "tid": TENANT,
        "uti": "abcDEF123",
        "ver": "2.0",
        "xms_ftd": "x",
    },
    service={
        "aud": "7d4f0a52-3b1c-4e6d-8f90-a1b2c3d4e5f6",
        "azp": "1b2c3d4e-0000-4000-8000-a1b2c3d4e5f6",
        "azpacr": "2",
        "idtyp": "app",
        "oid": "5f6a7b8c-1111-4000-8000-a1b2c3d4e5f6",
        "roles": ["byok:service", "usage:write"],
        "sub": "5f6a7b8c-1111-4000-8000-a1b2c3d4e5f6",
        "tid": TENANT,
        "ver": "2.0",
    },
    signing_key="entra-2",
)
OKTA = IdentityProvider(
    settings={"AUDIENCE": "api://byok", "SCOPE_CLAIMS": "scp"},
    issuer="/oauth2/aus1a2b3c4",
    jwks="/oauth2/aus1a2b3c4/v1/keys",
    keys=lambda _: [rsa_jwk(name, alg="RS256", use="sig") for name in ("okta-1", "okta-2")],
    discovery={
        "registration_endpoint": "https://acme.okta.com/oauth2/v1/clients",
        "dpop_signing_alg_values_supported": [],
    },
    header={},
    user={
        "ver": 1,
        "jti": "AT.0mP4JKAZX1iACIT4vbEDF7LpvDVjxypPMf0D7uX39RE",
        "aud": "api://byok",
        "cid": "0oa1a2b3c4",
        "uid": "00u1a2b3c4",
        "scp": list(READS),
        "auth_time": int(time.time()),
        "sub": "ada@example.com",
        "org": "acme",
    },
    service={
        "ver": 1,
        "jti": "AT.1",
        "aud": "api://byok",
        "cid": "0oa9z8y7x6",
        "scp": ["usage:write"],
        "sub": "0oa9z8y7x6",
        "org": "*",
    },
    signing_key="okta-1",
)
AUTH0 = IdentityProvider(
    settings={
        "AUDIENCE": "https://byok.example.com",
        "ORGANIZATION_CLAIM": "https://byok.example.com/org",
        "SCOPE_CLAIMS": "permissions",
    },
    issuer="/",
    jwks="/.well-known/jwks.json",
    keys=lambda _: [
        {"alg": "RS256", **rsa_jwk(name, use="sig"), **certificate_members(name)}
        for name in ("auth0-1", "auth0-2")
    ],
    discovery={"mfa_challenge_endpoint": "https://acme.auth0.com/mfa/challenge"},
    header={"typ": "at+jwt"},
    user={
        "aud": ["https://byok.example.com", "https://acme.auth0.com/userinfo"],
        "azp": "my_client_id",
        "https://byok.example.com/org": "acme",
        "permissions": list(READS),
        "scope": "openid profile email",
        "sub": "auth0|5f7c8ec7c33c6c004bbafe82",
    },
    service={
        "aud": "https://byok.example.com",
        "azp": "service_client_id",
        "gty": "client-credentials",
        "https://byok.example.com/org": "*",
        "permissions": ["usage:write"],
        "scope": "usage:write",
        "sub": "service_client_id@clients",
    },
    signing_key="auth0-2",
)
KEYCLOAK = IdentityProvider(
    settings={"AUDIENCE": "byok"},
    issuer="/realms/acme",
    jwks="/realms/acme/protocol/openid-connect/certs",
    # The first key encrypts. An HMAC key is not published.
    keys=lambda _: [
        {
            **rsa_jwk("keycloak-enc", alg="RSA-OAEP", use="enc"),
            **certificate_members("keycloak-enc"),
            "x5t#S256": "x",
        },
        {
            **rsa_jwk("keycloak-sig", alg="RS256", use="sig"),
            **certificate_members("keycloak-sig"),
            "x5t#S256": "x",
        },
    ],
    discovery={"frontchannel_logout_supported": True, "mtls_endpoint_aliases": {}},
    header={"typ": "JWT"},
    user={
        "jti": "onrtac:7a1b2c3d-0000-4000-8000-a1b2c3d4e5f6",
        "aud": ["byok", "account"],
        "typ": "Bearer",
        "azp": "page",
        "sid": "5f6a7b8c-2222-4000-8000-a1b2c3d4e5f6",
        "acr": "1",
        "allowed-origins": ["https://byok.example.com"],
        "realm_access": {"roles": ["offline_access", "default-roles-acme", "uma_authorization"]},
        "resource_access": {"account": {"roles": ["manage-account", "view-profile"]}},
        "scope": f"openid email profile {' '.join(READS)}",
        "email_verified": True,
        "preferred_username": "ada",
        "sub": "9e8d7c6b-0000-4000-8000-a1b2c3d4e5f6",
        "org": "acme",
    },
    service={
        "jti": "trrtcc:1",
        "aud": "byok",
        "typ": "Bearer",
        "azp": "ingestion",
        "scope": "usage:write",
        "client_id": "ingestion",
        "preferred_username": "service-account-ingestion",
        "sub": "9e8d7c6b-1111-4000-8000-a1b2c3d4e5f6",
        "org": "*",
    },
    signing_key="keycloak-sig",
)
PROVIDERS = {"Entra": ENTRA, "Okta": OKTA, "Auth0": AUTH0, "Keycloak": KEYCLOAK}
