"""Tests of provider URLs: the canonical form, the behaviour as a field, and the default auth style."""

import pickle

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from app.api.field_errors import FIELD_ERRORS
from app.core.url_errors import UrlReason, UrlRefused
from app.provider_url.url import OptionalProviderURL, ProviderURL
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
    def test_ends_with_the_path_of_the_messages_endpoint(self, typed: str, stored: str) -> None:
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
            ("https://r4---sn.example.net", "r4---sn.example.net"),
            ("https://AB--cd.example.net", "ab--cd.example.net"),
            (f"https://{'a' * 63}.example.com", f"{'a' * 63}.example.com"),
        ],
    )
    def test_host_is_the_name_for_dns_queries(self, typed: str, stored: str) -> None:
        assert ProviderURL(typed).host == stored

    @pytest.mark.parametrize("host", ["xn--a.example.com", "xn--zz--.example.com", "XN--.example.com"])
    def test_rejects_false_a_labels(self, host: str) -> None:
        with pytest.raises(UrlRefused) as caught:
            ProviderURL(f"https://{host}")
        assert caught.value.reason is UrlReason.HOST_INVALID

    def test_provides_host_base_url_and_messages_url(self) -> None:
        url = ProviderURL("https://api.deepseek.com/anthropic")

        assert url.host == "api.deepseek.com"
        assert url.base_url == "https://api.deepseek.com/anthropic"
        assert url.messages_url == "https://api.deepseek.com/anthropic/v1/messages"

    def test_rejects_a_url_whose_canonical_form_is_too_long(self) -> None:
        longest = f"{GATEWAY}/{'a' * (MAX_URL_LENGTH - len(GATEWAY) - 1 - len('/v1/messages'))}"

        assert len(ProviderURL(longest)) == MAX_URL_LENGTH
        for longer in (longest + "a", f"{GATEWAY}/{'é' * 400}"):
            with pytest.raises(UrlRefused) as caught:
                ProviderURL(longer)
            assert caught.value.reason is UrlReason.MALFORMED


class TestPathOfAnotherEndpoint:
    @pytest.mark.parametrize(
        "path",
        [
            "/chat/completions",
            "/v1/chat/completions/",
            "/openai/deployments/gpt/Chat/Completions",
            "/v1/models",
            "/v1//models//",
            "/v1/complete",
            "/anthropic/messages",
            "/Anthropic/Messages",
            "/V1/Messages",
            "/v1/Messages",
            "/V1/messages",
            "/v1/messages/count_tokens",
            "/v1/messages/batches",
            "/v1/responses",
        ],
    )
    def test_is_rejected_with_a_message_that_says_what_to_enter(self, path: str) -> None:
        with pytest.raises(UrlRefused) as caught:
            ProviderURL(GATEWAY + path)

        assert caught.value.reason is UrlReason.PATH_NOT_ALLOWED
        (error,) = caught.value.errors
        assert error.code == "path_not_allowed"
        assert "Enter only the base URL" in error.message

    def test_has_an_error_type_of_its_own_in_a_field(self) -> None:
        with pytest.raises(ValidationError) as caught:
            Form.model_validate_json('{"base_url": "https://gw.example.com/v1/models"}')

        (error,) = caught.value.errors(include_input=False)
        assert error["type"] in FIELD_ERRORS
        assert FIELD_ERRORS[error["type"]] == ("path_not_allowed", error["msg"])


class Form(BaseModel):
    base_url: OptionalProviderURL = None


class TestField:
    @pytest.mark.parametrize("body", ["{}", '{"base_url": null}', '{"base_url": ""}'])
    def test_empty_value_means_the_default_endpoint(self, body: str) -> None:
        assert Form.model_validate_json(body).base_url is None

    def test_parses_and_serializes_the_canonical_url(self) -> None:
        form = Form.model_validate_json('{"base_url": "https://GW.example.com"}')

        assert isinstance(form.base_url, ProviderURL)
        assert form.model_dump_json() == '{"base_url":"https://gw.example.com/v1/messages"}'

    def test_error_type_is_the_reason(self) -> None:
        with pytest.raises(ValidationError) as caught:
            Form.model_validate_json('{"base_url": "https://127.0.0.1"}')

        (error,) = caught.value.errors(include_input=False)
        assert (error["type"], error["loc"]) == ("host_is_ip", ("base_url",))

    @pytest.mark.parametrize("value", [1, True, ["https://gw.example.com"], b"https://gw.example.com"])
    def test_accepts_only_strings(self, value: object) -> None:
        with pytest.raises(ValidationError) as caught:
            TypeAdapter(ProviderURL).validate_python(value)

        assert caught.value.errors()[0]["type"] == "string_type"

    def test_schema_is_a_uri(self) -> None:
        schema = TypeAdapter(ProviderURL).json_schema()

        assert (schema["type"], schema["format"], schema["maxLength"]) == ("string", "uri", MAX_URL_LENGTH)

    def test_can_be_pickled(self) -> None:
        url = ProviderURL(GATEWAY)

        assert pickle.loads(pickle.dumps(url)) == url  # noqa: S301  # our own bytes
