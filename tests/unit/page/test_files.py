"""The files of the page as they are in the repository: closed, readable, and without what the policy forbids."""

import hashlib
import json
import re
from pathlib import Path

import pytest

import app.page
from app.page.files import preloaded, read_files

FILES = Path(app.page.__file__).parent / "files"
OPENAPI = Path(app.page.__file__).parents[2] / "openapi" / "openapi.json"
OWN = [path for path in sorted(FILES.rglob("*.js")) if "vendor" not in path.parts]
IMPORT = re.compile(r"""(?:^|\s)(?:import|from)\s*\(?\s*"([^"]+)"|import\("([^"]+)"\)""")
FORBIDDEN = (
    *("eval(", "new Function", "innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "setHTML"),
    *("dangerouslySetInnerHTML", "localStorage", "sessionStorage", "indexedDB", "document.cookie", "caches."),
    *(
        "console.log",
        "console.error",
        "console.warn",
        "sourceMappingURL",
        "serviceWorker",
        "navigator.clipboard",
        "style=",
        "cssText",
        "@import",
    ),
    *("XMLHttpRequest", "WebSocket", "sendBeacon", "RegExp", ".match(", ".test(", ".exec(", ".search("),
)
# The calls that leave the page or go around Preact, and the modules that use them.
CALLS_THAT_LEAVE = {
    "fetch(": {"api.js", "sign_in.js", "element.js"},
    "Authorization:": {"api.js"},
    "postMessage(": {"frame.js", "callback.js"},
    "BroadcastChannel(": {"oidc.js", "callback.js"},
    "window.open(": {"oidc.js"},
    "location.href =": {"oidc.js"},
    "link.href =": {"download.js"},
    "createElement(": {"download.js"},
    "textContent": {"webhooks.js"},
    "await import(": {"boot.js", "sign_in.js"},
}
# What the browser keeps of a key that a regular expression or a part of a text touched.
FORBIDDEN_ON_KEYS = (".slice(", ".substring(", ".substr(", ".split(", ".replace(", ".replaceAll(")


def vendored() -> dict[str, str]:
    text = (FILES / "vendor" / "README.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^    (\S+\.js)  ([0-9a-f]{128})$", text, re.MULTILINE))


def words_of(table: str) -> set[str]:
    text = (FILES / "words.js").read_text(encoding="utf-8")
    body = text.partition(f"{table} = {{")[2].partition("\n};")[0]
    return set(re.findall(r'^  "?([a-z_.]+)"?:', body, re.MULTILINE))


def schema_of(name: str) -> set[str]:
    schemas = json.loads(OPENAPI.read_text(encoding="utf-8"))["components"]["schemas"]
    return set(schemas[name]["enum"])


class TestVendoredFiles:
    def test_are_those_of_the_packages(self) -> None:
        checksums = vendored()
        assert set(checksums) == {path.name for path in (FILES / "vendor").glob("*.js")}
        for name, checksum in checksums.items():
            content = (FILES / "vendor" / name).read_text(encoding="utf-8")
            original = content.replace('"./preact.js"', '"preact"') if name == "hooks.js" else content
            assert hashlib.sha512(original.encode()).hexdigest() == checksum, name

    def test_have_their_licences(self) -> None:
        names = {path.name for path in (FILES / "vendor").glob("LICENSE.*")}
        assert names == {"LICENSE.preact", "LICENSE.htm", "LICENSE.oauth4webapi"}


class TestImports:
    def test_are_relative_and_of_the_table(self) -> None:
        files = read_files()
        for path in OWN:
            for first, second in IMPORT.findall(path.read_text(encoding="utf-8")):
                target = first or second
                if target.endswith('.js").Api'):
                    continue
                assert target.startswith("."), (path.name, target)
                resolved = (path.parent / target).resolve().relative_to(FILES).as_posix()
                assert resolved in files or resolved.removesuffix(".js") in {"types", "api_types"}, (
                    path.name,
                    target,
                )

    def test_of_the_first_visit_leave_out_what_is_used_on_demand(self) -> None:
        assert "vendor/oauth4webapi.js" not in preloaded(read_files())
        assert "vendor/preact.js" in preloaded(read_files())


class TestOwnModules:
    @pytest.mark.parametrize("path", OWN, ids=lambda path: path.name)
    def test_have_none_of_the_forbidden_words(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        assert [word for word in FORBIDDEN if word in text] == []

    def test_leave_the_page_in_named_places_only(self) -> None:
        texts = {path.name: path.read_text(encoding="utf-8") for path in OWN}
        found = {call: {name for name, text in texts.items() if call in text} for call in CALLS_THAT_LEAVE}
        found["fetch("] = {name for name in found["fetch("] if re.search(r"(?<![.\w])fetch\(", texts[name])}
        assert found == CALLS_THAT_LEAVE

    def test_of_the_key_never_cut_it(self) -> None:
        for name in ("key_checks.js", "key_field.js"):
            text = (FILES / "key" / name).read_text(encoding="utf-8")
            assert [word for word in FORBIDDEN_ON_KEYS if word in text] == [], name

    def test_fit_into_an_hour_of_reading(self) -> None:
        lines = {path.name: len(path.read_text(encoding="utf-8").splitlines()) for path in OWN}
        assert sum(lines.values()) < 3000
        assert max(lines.values()) <= 250

    def test_read_the_key_in_one_place_of_each_form(self) -> None:
        reads = {path.name: path.read_text(encoding="utf-8").count(".read()") for path in OWN}
        assert {name: count for name, count in reads.items() if count} == {"key_form.js": 1, "rotation.js": 1}


class TestTable:
    def test_has_only_scripts_and_styles(self) -> None:
        assert {name.rpartition(".")[2] for name in read_files()} == {"js", "css"}


class TestWords:
    @pytest.mark.parametrize(
        ("table", "schema"), [("REASONS", "Reason"), ("BLOCKERS", "Blocker"), ("MODES", "UsageMode")]
    )
    def test_have_each_code_of_the_api(self, table: str, schema: str) -> None:
        text = (FILES / "words.js").read_text(encoding="utf-8")
        if table == "MODES":
            assert 'MODES = { managed: "Managed", byo: "BYO key" }' in text
            return
        assert words_of(table) == schema_of(schema)

    def test_have_each_action_of_the_audit_log(self) -> None:
        assert words_of("ACTIONS") >= schema_of("AuditAction")
