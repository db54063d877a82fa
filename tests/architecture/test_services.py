"""Every class that the service looks up in its registry of use cases is registered there."""

import ast
from collections.abc import Iterator
from pathlib import Path

import app
from app.core.services import Services

SOURCE = Path(app.__file__).parent


def lookups(source: str) -> Iterator[str]:
    """The class names in expressions such as `services[RotationService]` and `app.state.services[Authenticator]`."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Subscript(
                value=ast.Name(id="services") | ast.Attribute(attr="services" | "_services"), slice=key
            ):
                yield ast.unparse(key)
            case _:
                pass


def looked_up() -> set[str]:
    return {name for path in SOURCE.rglob("*.py") for name in lookups(path.read_text(encoding="utf-8"))}


class TestServices:
    def test_contain_every_class_that_is_looked_up(self, services: Services) -> None:
        names = looked_up()

        registered = {kind.__name__ for kind in services._by_class}
        assert len(names) > 20
        assert names - registered == set()

    def test_lookups_are_found_in_every_form(self) -> None:
        source = "services[A].run()\nstate.services[B]\nself._services[C]\nothers[D]\n"

        assert set(lookups(source)) == {"A", "B", "C"}
