"""The router of the features. It postpones what a route needs only for its requests and for the OpenAPI document."""

from collections.abc import Callable, Collection
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.routing import compile_path


class LazyRoute(APIRoute):
    """A route that analyses its handler at its first use, which takes about 5 ms.

    To analyse all handlers at import takes a fifth of a start's CPU time. The first request to each route takes it instead. An error in a declaration shows when the
    OpenAPI document is generated, which uses all routes.
    """

    def __init__(
        self,
        path: str,
        endpoint: Callable[..., Any],
        *,
        methods: Collection[str] | None = None,
        **options: Any,
    ) -> None:
        """Keep the declaration, and set only what finding the route of a request needs."""
        self.path = path
        self.endpoint = endpoint
        self.methods = {method.upper() for method in methods or ("GET",)}
        self.path_regex, self.path_format, self.param_convertors = compile_path(path)
        self._options: dict[str, Any] | None = options

    def __getattr__(self, name: str) -> Any:
        """Analyse the handler. Called for attributes that are not set yet. If that fails, the next use does it again."""
        options = self.__dict__.get("_options")
        if options is None:
            raise AttributeError(name)
        declared = self.__dict__.copy()
        self._options = None
        try:
            super().__init__(self.path, self.endpoint, methods=self.methods, **options)
        except BaseException:
            self.__dict__ = declared  # without what was set before the error
            raise
        return getattr(self, name)


class Router(APIRouter):
    """A router whose routes are lazy. Takes the arguments of `APIRouter`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(route_class=LazyRoute, **options)
