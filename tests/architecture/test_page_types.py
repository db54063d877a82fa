"""The page's requests are checked against the OpenAPI document: each mistake below is a type error."""

import pytest

from tests.support.clients.typescript import PageTypes, prepare_page_types

pytestmark = pytest.mark.slow

HEAD = """import { readAll } from "./loading.js";
/** @param {import("./api.js").Api} api @param {string} id */
export async function request(api, id) {
"""
# What is written right, and a mistake in it.
REQUESTS = {
    "path": ('await api.get("usage-mode");', 'await api.get("usage-modes");'),
    "method": (
        'await api.send("put", "usage-mode", { body: { mode: "byo" } });',
        'await api.send("patch", "usage-mode", { body: { mode: "byo" } });',
    ),
    "full_path": ('await api.get("/v1/session");', 'await api.get("v1/session");'),
    "parameter_of_path": (
        'await api.get("spend-limits/{limit_id}", { path: { limit_id: id } });',
        'await api.get("spend-limits/{limit_id}", { path: { id } });',
    ),
    "missing_path": (
        'await api.get("spend-limits/{limit_id}", { path: { limit_id: id } });',
        'await api.get("spend-limits/{limit_id}");',
    ),
    "query": (
        'await api.get("usage-report", { query: { starting_on: id } });',
        'await api.get("usage-report", { query: { starts_on: id } });',
    ),
    "value_of_query": (
        'await api.get("usage-report", { query: { "group_by[]": ["model"] } });',
        'await api.get("usage-report", { query: { "group_by[]": ["models"] } });',
    ),
    "header": (
        'await api.send("put", "usage-mode", { body: { mode: "byo" }, headers: { "If-Match": id } });',
        'await api.send("put", "usage-mode", { body: { mode: "byo" }, headers: { "If-Matches": id } });',
    ),
    "field_of_body": (
        'await api.send("post", "provider-credentials", { body: { label: id, api_key: id } });',
        'await api.send("post", "provider-credentials", { body: { label: id, key: id } });',
    ),
    "missing_body": (
        'await api.send("post", "webhook-endpoints", { body: { url: id } });',
        'await api.send("post", "webhook-endpoints");',
    ),
    "field_of_response": (
        'return (await api.get("readiness")).data.blockers;',
        'return (await api.get("readiness")).data.blocker;',
    ),
    "list": (
        'return (await readAll(api, "spend-limits"))[0].name;',
        'return await readAll(api, "readiness");',
    ),
    "field_of_item": (
        'return (await readAll(api, "spend-limits"))[0].name;',
        'return (await readAll(api, "spend-limits"))[0].label;',
    ),
    "export": (
        'await api.exportUrl("billing-statements/{month}.csv", { path: { month: id } });',
        'await api.exportUrl("billing-statement/{month}.csv", { path: { month: id } });',
    ),
}


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The errors of each file, from one run of the compiler."""
    page: PageTypes = prepare_page_types(tmp_path_factory.mktemp("page"))
    modules = {}
    for name, (right, wrong) in REQUESTS.items():
        modules[f"right_{name}.js"] = f"{HEAD}  void readAll, api, id;\n  {right}\n}}\n"
        modules[f"wrong_{name}.js"] = f"{HEAD}  void readAll, api, id;\n  {wrong}\n}}\n"
    return page.check(modules)


class TestTypesOfThePage:
    def test_are_right(self, errors: dict[str, list[str]]) -> None:
        wrong = {f"wrong_{name}.js" for name in REQUESTS}

        assert {name: errors[name] for name in errors.keys() - wrong} == {}

    @pytest.mark.parametrize("name", REQUESTS)
    def test_find_a_mistake_in_a_request(self, errors: dict[str, list[str]], name: str) -> None:
        assert len(errors.get(f"wrong_{name}.js", [])) == 1
