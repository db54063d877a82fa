"""A registry of the use-case objects of one running service, by class."""

from typing import TypeVar

Service = TypeVar("Service")


class Services:
    """Finds a service by its class, such as `services[RotationService]`."""

    def __init__(self, *services: object) -> None:
        self._by_class = {type(service): service for service in services}

    def __getitem__(self, kind: type[Service]) -> Service:
        found = self._by_class[kind]
        assert isinstance(found, kind)
        return found

    def replacing(self, *services: object) -> "Services":
        """Return a copy in which these services replace those of the same class."""
        return Services(*{**self._by_class, **{type(service): service for service in services}}.values())
