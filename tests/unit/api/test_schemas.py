"""Response models: the same JSON as pydantic's, also without validation."""

import json
from datetime import UTC, date, datetime
from enum import StrEnum
from uuid import UUID

import pytest

import app.composition.routes  # noqa: F401  # imports all models
from app.api.schemas import Page, ResponseModel, unvalidated
from app.usage.schemas import EventResult
from app.usage_events.events import EventStatus


class Colour(StrEnum):
    RED = "red"


class Item(ResponseModel):
    """A model with a field of each type that responses have."""

    id: UUID
    name: str
    colour: Colour
    at: datetime
    day: date
    count: int
    share: float
    is_on: bool
    nothing: str | None
    names: list[str]
    counts: dict[Colour, int]
    inner: "Item | None"


def item(*, name: str = "x", at: datetime = datetime(2026, 1, 2, tzinfo=UTC), share: float = 0.5) -> Item:
    fields = {
        "id": UUID(int=7),
        "name": name,
        "colour": Colour.RED,
        "at": at,
        "day": date(2026, 1, 2),
        "count": 2**60,
        "share": share,
        "is_on": True,
        "nothing": None,
        "names": ["a", ""],
        "counts": {Colour.RED: 1},
    }
    return Item(**fields, inner=Item(**fields, inner=None))


def response_models(kind: type[ResponseModel] = ResponseModel) -> list[type[ResponseModel]]:
    return [model for below in kind.__subclasses__() for model in (below, *response_models(below))]


class TestToJson:
    @pytest.mark.parametrize(
        "text", ["", 'quote " and \\', "".join(map(chr, range(0x300))), "\u2028\ue000\uffff\U0001f600"]
    )
    def test_writes_texts_as_pydantic_does(self, text: str) -> None:
        assert item(name=text).to_json() == item(name=text).model_dump_json().encode()

    @pytest.mark.parametrize("microsecond", [0, 7, 120_000, 123_456])
    def test_writes_timestamps_as_pydantic_does(self, microsecond: int) -> None:
        made = item(at=datetime(2026, 1, 2, 3, 4, 5, microsecond, tzinfo=UTC))

        assert made.to_json() == made.model_dump_json().encode()

    @pytest.mark.parametrize("share", [0.0, 0.1, 1 / 3, 1.0, 12.5, 100.0, 1e6, 123456.789])
    def test_writes_fractions_as_pydantic_does(self, share: float) -> None:
        assert item(share=share).to_json() == item(share=share).model_dump_json().encode()

    @pytest.mark.parametrize("share", [1e16, -1.5e20, 123456789012345680.0, 1e308])
    def test_writes_large_fractions_as_the_same_numbers(self, share: float) -> None:
        written = json.loads(item(share=share).to_json())

        assert written == json.loads(item(share=share).model_dump_json())
        assert written["share"] == share

    def test_writes_pages_as_pydantic_does(self) -> None:
        page = Page[Item](data=[item(), item()], has_more=False, next_page=None)

        assert page.to_json() == page.model_dump_json().encode()

    @pytest.mark.parametrize("fields", [("model",), None], ids=["present", "absent"])
    def test_leaves_out_what_pydantic_leaves_out(self, fields: tuple[str, ...] | None) -> None:
        made = EventResult(
            index=0, event_id=None, status=EventStatus.REJECTED, code="required", fields=fields
        )

        assert made.to_json() == made.model_dump_json().encode()

    @pytest.mark.parametrize("model", response_models(), ids=lambda model: model.__name__)
    def test_no_model_serializes_a_field_in_its_own_way(self, model: type[ResponseModel]) -> None:
        decorators = model.__pydantic_decorators__

        assert not decorators.field_serializers
        assert not decorators.model_serializers
        assert not decorators.computed_fields
        assert not [name for name, field in model.model_fields.items() if field.serialization_alias]
        assert not [name for name, field in model.model_fields.items() if field.exclude]


class TestUnvalidated:
    def test_makes_the_model_that_validation_makes(self) -> None:
        validated = item()

        made = unvalidated(Item)(**dict(validated))

        assert made == validated
        assert made.model_fields_set == validated.model_fields_set
        assert made.to_json() == validated.to_json()

    def test_makes_a_frozen_model(self) -> None:
        made = unvalidated(Item)(**dict(item()))

        with pytest.raises(ValueError, match="frozen"):
            made.name = "y"  # type: ignore[misc]
