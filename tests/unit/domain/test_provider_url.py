"""The messages endpoint: its one spelling, its behaviour as a field, and how keys travel to it."""

import pickle

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from app.core.url_errors import UrlReason, UrlRefused
from app.provider_url.endpoint import AuthStyle
from app.provider_url.url import OptionalProviderURL, ProviderURL, default_auth_style
from app.provider_url.url_policy import MAX_URL_LENGTH

GATEWAY = "https://gw.example.com"


class TestCanonicalForm:
    @pytest.mark.parametrize(
        ("typed", "stored"),
        [
            ("", "/v1/messages"),
            ("/", "/v1/messages"),
            ("/v1", "/v1/messages"),
            ("/v1/", "/v1/messages"),
            ("/v1/messages", "/v1/messages"),
            ("/v1/messages/", "/v1/messages"),
            (":443", "/v1/messages"),
            (":443/anthropic", "/anthropic/v1/messages"),
            ("//a///b//", "/a/b/v1/messages"),
            ("/v1/acct/gw/anthropic", "/v1/acct/gw/anthropic/v1/messages"),
            ("/v1/v1", "/v1/v1/messages"),
            ("/apiv1", "/apiv1/v1/messages"),
            ("/xv1/messages", "/xv1/messages/v1/messages"),
            ("/V1", "/V1/v1/messages"),
            ("/messages", "/messages/v1/messages"),
            ("/@acme", "/@acme/v1/messages"),
            ("/a:b", "/a:b/v1/messages"),
            ("/.well-known", "/.well-known/v1/messages"),
            ("/...", "/.../v1/messages"),
            ("/team%20a", "/team%20a/v1/messages"),
            ("/%c3%A9", "/%c3%A9/v1/messages"),
            ("/équipe", "/%C3%A9quipe/v1/messages"),
            ("/a;x=1,y!$&'()*+~_-", "/a;x=1,y!$&'()*+~_-/v1/messages"),
        ],
    )
    def test_ends_in_the_messages_endpoint(self, typed: str, stored: str) -> None:
        url = ProviderURL(GATEWAY + typed)

        assert url == GATEWAY + stored
        assert ProviderURL(url) == url

    @pytest.mark.parametrize(
        ("typed", "stored"),
        [
            ("HTTPS://GW.Example.COM", "gw.example.com"),
            ("https://gw.example.com.", "gw.example.com"),
            ("https://bücher.example.com", "xn--bcher-kva.example.com"),
            ("https://BÜCHER.example.com", "xn--bcher-kva.example.com"),
            ("https://XN--BCHER-KVA.example.com", "xn--bcher-kva.example.com"),
            ("https://faß.example.com", "xn--fa-hia.example.com"),
            ("https://日本語。example。com", "xn--wgv71a119e.example.com"),
            ("https://א.example.com", "xn--4db.example.com"),
            ("https://10.example.com", "10.example.com"),
            ("https://localhost.example.com", "localhost.example.com"),
            ("https://internal-tools.com", "internal-tools.com"),
            ("https://0x7f.example.com", "0x7f.example.com"),
            (f"https://{'a' * 63}.example.com", f"{'a' * 63}.example.com"),
        ],
    )
    def test_host_is_the_name_that_dns_is_asked_for(self, typed: str, stored: str) -> None:
        assert ProviderURL(typed).host == stored

    def test_shows_its_parts(self) -> None:
        url = ProviderURL("https://api.deepseek.com/anthropic")

        assert url.host == "api.deepseek.com"
        assert url.base_url == "https://api.deepseek.com/anthropic"
        assert url.messages_url == "https://api.deepseek.com/anthropic/v1/messages"

    def test_a_url_that_would_be_stored_too_long_is_refused(self) -> None:
        longest = f"{GATEWAY}/{'a' * (MAX_URL_LENGTH - len(GATEWAY) - 1 - len('/v1/messages'))}"

        assert len(ProviderURL(longest)) == MAX_URL_LENGTH
        for longer in (longest + "a", f"{GATEWAY}/{'é' * 400}"):
            with pytest.raises(UrlRefused) as caught:
                ProviderURL(longer)
            assert caught.value.reason is UrlReason.MALFORMED


class Form(BaseModel):
    base_url: OptionalProviderURL = None


class TestField:
    @pytest.mark.parametrize("body", ["{}", '{"base_url": null}', '{"base_url": ""}'])
    def test_left_empty_means_the_default_endpoint(self, body: str) -> None:
        assert Form.model_validate_json(body).base_url is None

    def test_holds_and_writes_the_canonical_url(self) -> None:
        form = Form.model_validate_json('{"base_url": "https://GW.example.com"}')

        assert isinstance(form.base_url, ProviderURL)
        assert form.model_dump_json() == '{"base_url":"https://gw.example.com/v1/messages"}'

    def test_errors_carry_the_reason_as_their_type(self) -> None:
        with pytest.raises(ValidationError) as caught:
            Form.model_validate_json('{"base_url": "https://127.0.0.1"}')

        (error,) = caught.value.errors(include_input=False)
        assert (error["type"], error["loc"]) == ("host_is_ip", ("base_url",))

    @pytest.mark.parametrize("value", [1, True, ["https://gw.example.com"], b"https://gw.example.com"])
    def test_takes_text_only(self, value: object) -> None:
        with pytest.raises(ValidationError) as caught:
            TypeAdapter(ProviderURL).validate_python(value)

        assert caught.value.errors()[0]["type"] == "string_type"

    def test_is_a_uri_in_the_schema(self) -> None:
        schema = TypeAdapter(ProviderURL).json_schema()

        assert (schema["type"], schema["format"], schema["maxLength"]) == ("string", "uri", MAX_URL_LENGTH)

    def test_survives_pickling_by_passing_the_policy_again(self) -> None:
        url = ProviderURL(GATEWAY)

        assert pickle.loads(pickle.dumps(url)) == url  # noqa: S301  # our own bytes


@pytest.mark.parametrize(
    ("host", "style"),
    [
        ("api.anthropic.com", AuthStyle.X_API_KEY),
        ("api.deepseek.com", AuthStyle.X_API_KEY),
        ("gateway.ai.cloudflare.com", AuthStyle.X_API_KEY),
        ("contoso.services.ai.azure.com", AuthStyle.X_API_KEY),
        ("services.ai.azure.com.example.com", AuthStyle.BEARER),
        ("xservices.ai.azure.com", AuthStyle.BEARER),
        ("xapi.anthropic.com", AuthStyle.BEARER),
        ("api.anthropic.com.example.com", AuthStyle.BEARER),
        ("openrouter.ai", AuthStyle.BEARER),
        ("api.fireworks.ai", AuthStyle.BEARER),
    ],
)
def test_key_travels_as_the_provider_documents(host: str, style: AuthStyle) -> None:
    assert default_auth_style(host) is style
