"""The router of the features. It postpones what a route needs only for its requests and for the OpenAPI document."""

import json
from collections.abc import Callable, Collection, Coroutine
from typing import Any, NoReturn

from fastapi import APIRouter, Request, Response
from fastapi.routing import APIRoute
from starlette.routing import compile_path


class StrictJsonRequest(Request):
    """A request whose body is JSON as RFC 8259 defines it. Python's parser also accepts `NaN` and `Infinity`."""

    async def json(self) -> Any:
        return json.loads(await self.body(), parse_constant=_reject_constant)


def _reject_constant(_name: str) -> NoReturn:
    raise ValueError("not a JSON value")


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

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI parses the body with the method of the request."""
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(StrictJsonRequest(request.scope, request.receive))

        return handle_strictly


class Router(APIRouter):
    """A router whose routes are lazy. Takes the arguments of `APIRouter`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(route_class=LazyRoute, **options)
