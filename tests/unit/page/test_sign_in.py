"""Sign-in for development: a code works once, for a minute, from the page itself, under a name of this machine."""

from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path

import httpx
import jwt
import pytest

from app.auth.signing_keys import EmbeddedIssuer
from app.core.clock import new_id, now
from app.core.errors import SignInRefused
from app.core.services import Services
from app.main import create_app
from app.page.document import PageConfig
from app.page.router import BillingPage
from app.page.sign_in import CODE_AUDIENCE, SignIn, issue_code

PAGE = {"Sec-Fetch-Site": "same-origin"}


@pytest.fixture
def issuer(tmp_path: Path) -> EmbeddedIssuer:
    return EmbeddedIssuer.load_or_create(tmp_path)


@pytest.fixture
def sign_in(issuer: EmbeddedIssuer, tmp_path: Path) -> SignIn:
    return SignIn(issuer, tmp_path)


def code_of(issuer: EmbeddedIssuer, role: str = "billing-admin") -> str:
    return issue_code(issuer, subject="ada", organization_id="org_acme", role=role, ttl=timedelta(hours=1))


def signed(issuer: EmbeddedIssuer, **claims: object) -> str:
    at = int(now().timestamp())
    whole = {
        "iss": issuer.issuer,
        "aud": CODE_AUDIENCE,
        "sub": "ada",
        "exp": at + 60,
        "jti": str(new_id()),
        "org": "org_acme",
        "role": "billing-admin",
        "ttl": 60,
    }
    return issuer.sign(whole | claims)


class TestRedeem:
    def test_gives_a_token_of_the_organization(self, issuer: EmbeddedIssuer, sign_in: SignIn) -> None:
        token = sign_in.redeem(code_of(issuer, "billing-viewer"))

        claims = jwt.decode(token, issuer.public_key, algorithms=["EdDSA"], audience=issuer.audience)
        assert (claims["sub"], claims["org"]) == ("ada", "org_acme")
        assert "credentials:write" not in claims["scope"]

    def test_works_once_for_all_processes_with_the_key(
        self, issuer: EmbeddedIssuer, sign_in: SignIn, tmp_path: Path
    ) -> None:
        code = code_of(issuer)
        sign_in.redeem(code)
        for another in (sign_in, SignIn(EmbeddedIssuer.load_or_create(tmp_path), tmp_path)):
            with pytest.raises(SignInRefused):
                another.redeem(code)

    @pytest.mark.parametrize(
        "claims",
        [
            {"exp": int(now().timestamp()) - 1},
            {"aud": "byok"},
            {"iss": "somebody"},
            {"jti": "../../signing-key"},
            {"role": "root"},
        ],
        ids=lambda claims: next(iter(claims)),
    )
    def test_refuses_every_other_code(
        self, issuer: EmbeddedIssuer, sign_in: SignIn, claims: dict[str, object]
    ) -> None:
        with pytest.raises(SignInRefused):
            sign_in.redeem(signed(issuer, **claims))

    def test_refuses_a_token_and_text(self, issuer: EmbeddedIssuer, sign_in: SignIn) -> None:
        token = issuer.issue(subject="a", organization_id="org_acme", scopes=[], ttl=timedelta(hours=1))
        for code in (token, "", "a.b.c", "sk-ant"):
            with pytest.raises(SignInRefused):
                sign_in.redeem(code)

    async def test_a_code_is_not_a_token(self, issuer: EmbeddedIssuer) -> None:
        with pytest.raises(jwt.InvalidAudienceError):
            jwt.decode(code_of(issuer), issuer.public_key, algorithms=["EdDSA"], audience=issuer.audience)


class TestRequest:
    @pytest.mark.parametrize(
        ("url", "headers", "status"),
        [
            ("http://127.0.0.1:8000", PAGE, 200),
            ("http://localhost:8000", PAGE, 200),
            ("http://[::1]:8000", PAGE, 200),
            ("http://byok.internal:8000", PAGE, 200),
            ("http://rebound.example.com:8000", PAGE, 403),
            ("http://127.0.0.1:8000", {}, 403),
            ("http://127.0.0.1:8000", {"Sec-Fetch-Site": "cross-site"}, 403),
            ("http://127.0.0.1:8000", {"Sec-Fetch-Site": "same-site"}, 403),
        ],
    )
    async def test_must_come_from_the_page_under_a_known_host(
        self, issuer: EmbeddedIssuer, sign_in: SignIn, url: str, headers: dict[str, str], status: int
    ) -> None:
        page = BillingPage(config=PageConfig(), sign_in=sign_in, hosts=frozenset({"byok.internal"}))
        app = create_app(nullcontext(Services()), page=page)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=url) as client:
            response = await client.post("/billing/sign-in", json={"code": code_of(issuer)}, headers=headers)
        assert response.status_code == status
        if status == 403:
            assert response.json()["code"] == "sign_in_refused"

    async def test_with_a_malformed_host_is_refused(self, issuer: EmbeddedIssuer, sign_in: SignIn) -> None:
        app = create_app(nullcontext(Services()), page=BillingPage(config=PageConfig(), sign_in=sign_in))
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://localhost"
        ) as client:
            response = await client.post(
                "/billing/sign-in", json={"code": code_of(issuer)}, headers={**PAGE, "Host": "[::1"}
            )
        assert response.status_code == 403

    async def test_is_not_there_with_an_external_issuer(self) -> None:
        app = create_app(nullcontext(Services()), page=BillingPage(config=PageConfig(issuer="https://id")))
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://localhost"
        ) as client:
            response = await client.post("/billing/sign-in", json={"code": "x"}, headers=PAGE)
        assert response.status_code in {404, 405}
