"""Routes that analyse their handlers at the first use."""

import httpx
import pytest
from fastapi import FastAPI, routing

from app.api.routing import LazyRoute, Router


def application() -> tuple[FastAPI, LazyRoute]:
    """An application with one route, whose handler is not analysed yet."""
    router = Router()

    @router.get("/things/{number}", summary="A thing")
    async def thing(number: int) -> dict[str, int]:
        return {"number": number}

    app = FastAPI()
    app.router.routes.extend(router.routes)
    route = router.routes[0]
    assert isinstance(route, LazyRoute)
    return app, route


class _Interrupted(BaseException):
    """An error that is not an Exception, as that of a signal."""


class TestLazyRoute:
    async def test_responds_as_declared(self) -> None:
        app, route = application()
        assert "dependant" not in vars(route)

        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
            assert (await http.get("/things/7")).json() == {"number": 7}
            assert (await http.get("/things/x")).status_code == 422
        assert route.summary == "A thing"

    @pytest.mark.parametrize("error", [MemoryError, _Interrupted])
    def test_analyses_its_handler_again_after_an_error(
        self, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _, route = application()
        declared = dict(vars(route))

        def fail(*_: object, **__: object) -> None:
            raise error

        # What the analysis calls after it has set some attributes.
        with monkeypatch.context() as patch:
            patch.setattr(routing, "get_dependant", fail)
            for _ in range(2):
                with pytest.raises(error):
                    _ = route.dependant
                assert vars(route) == declared

        assert [field.name for field in route.dependant.path_params] == ["number"]

    def test_has_no_other_attributes(self) -> None:
        _, route = application()

        with pytest.raises(AttributeError, match="no_such"):
            _ = route.no_such
