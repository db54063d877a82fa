"""Clients generated from an earlier document keep working: what release 0.1 declared is still declared.

`openapi_0_1.json` is the document of that release without texts and examples. Additions are allowed; a removal or a
change fails, and is only right together with a new major version of the paths.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.openapi import openapi_document

RELEASED = json.loads(Path(__file__).with_name("openapi_0_1.json").read_text(encoding="utf-8"))
# Lists whose order means nothing, so that an addition may be anywhere.
UNORDERED = {"required", "enum", "tags"}
ORGANIZATION = "/paths//v1/organizations/{organization_id}"
REPORT = f"{ORGANIZATION}/usage-report"
# Restrictions of requests that were relaxed: what an earlier client sends is still accepted.
RELAXED = {
    "/components/schemas/PriceOverrideEntry/properties/model/pattern",
    "/components/schemas/UsageObject/properties/iterations/anyOf/0/maxItems",
    # A date may be given instead of the time, and cursors became longer.
    f"{REPORT}/get/parameters/2/required",
    f"{REPORT}/get/parameters/16/schema/maxLength",
}
# Responses that contain more than before. A later release may record an action that an instance of this one lists, and rows
# that cancel others have negative counts.
_ROW = "/components/schemas/UsageRow/properties"
_ROW_CACHE = "/components/schemas/RowCacheCreation/properties"
WIDENED = {
    "/components/schemas/AuditEvent/properties/action/$ref",
    *(f"{_ROW_CACHE}/ephemeral_{ttl}_input_tokens/minimum" for ttl in ("5m", "1h")),
    *(f"{_ROW}/{tokens}_tokens/minimum" for tokens in ("cache_read_input", "output", "uncached_input")),
    f"{_ROW}/web_search_requests/minimum",
}
# CSV is still served for `Accept: text/csv` (tests/api), and is documented at separate operations: declared beside JSON,
# it made every generated client return "a report or a string".
CSV_OPERATIONS = {
    f"{REPORT}/get": f"{REPORT}.csv",
    f"{ORGANIZATION}/usage-events/get": f"{ORGANIZATION}/usage-events.csv",
    f"{ORGANIZATION}/billing-statements/{{month}}/get": f"{ORGANIZATION}/billing-statements/{{month}}.csv",
}
_CSV = "/responses/200/content/text/csv"


# The description has the default, and the service applies it all the same.
_DEFAULT_OF_FIELD = re.compile(r"/components/schemas/\w+/properties/\w+/default")


def _may_change(at: str) -> bool:
    return (
        at in RELAXED | WIDENED
        or at.removesuffix(_CSV) in CSV_OPERATIONS
        or _DEFAULT_OF_FIELD.fullmatch(at) is not None
    )


def missing(released: Any, current: Any, at: str = "") -> Iterator[str]:
    """Where `current` lacks or changes a part of `released`."""
    if isinstance(released, dict) and isinstance(current, dict):
        for key, value in released.items():
            if _may_change(f"{at}/{key}"):
                continue
            if key not in current:
                yield f"{at}/{key} is gone"
            elif key == "maxLength" and released.get("writeOnly") and current[key] > value:
                continue  # accepts more
            else:
                yield from missing(value, current[key], f"{at}/{key}")
    elif isinstance(released, list) and isinstance(current, list) and at.rpartition("/")[2] in UNORDERED:
        yield from (f"{at} lacks {value}" for value in released if value not in current)
    elif isinstance(released, list) and isinstance(current, list) and len(released) <= len(current):
        for index, value in enumerate(released):
            yield from missing(value, current[index], f"{at}/{index}")
    elif released != current:
        yield f"{at} was {released!r}, is {current!r}"


class TestReleasedDocument:
    def test_is_still_served(self) -> None:
        assert list(missing(RELEASED, openapi_document())) == []

    @pytest.mark.parametrize(("operation", "export"), sorted(CSV_OPERATIONS.items()))
    def test_declares_csv_at_an_operation_of_its_own(self, operation: str, export: str) -> None:
        paths = openapi_document()["paths"]
        json_path, csv_path = (it.removeprefix("/paths/").removesuffix("/get") for it in (operation, export))

        released = RELEASED["paths"][json_path]["get"]["responses"]["200"]["content"]
        current = paths[json_path]["get"]["responses"]["200"]["content"]
        exported = paths[csv_path]["get"]["responses"]["200"]["content"]

        assert set(released) - set(current) == set(exported) == {"text/csv"}
        assert list(missing(released["text/csv"], exported["text/csv"])) == []

    def test_comparison_finds_a_removed_field(self) -> None:
        current = json.loads(json.dumps(RELEASED))
        del current["components"]["schemas"]["Credential"]["properties"]["key_hint"]

        assert list(missing(RELEASED, current)) == [
            "/components/schemas/Credential/properties/key_hint is gone"
        ]
