"""The use cases of one running service, by their class."""

from typing import TypeVar

Service = TypeVar("Service")


class Services:
    """What routers and jobs receive: `services[Rotation]`."""

    def __init__(self, *services: object) -> None:
        self._by_class = {type(service): service for service in services}

    def __getitem__(self, kind: type[Service]) -> Service:
        found = self._by_class[kind]
        assert isinstance(found, kind)
        return found

    def replacing(self, *services: object) -> "Services":
        """The same, with these in place of others of their class."""
        return Services(*{**self._by_class, **{type(service): service for service in services}}.values())
