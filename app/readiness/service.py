"""Whether provider-backed work may start right now."""

from app.database.unit_of_work import UnitsOfWork
from app.readiness.readiness import Readiness
from app.readiness.repository import ReadinessRepository


class ReadinessService:
    """One use case."""

    def __init__(self, units: UnitsOfWork) -> None:
        self._units = units

    async def read(self, organization_id: str) -> Readiness:
        """Other services ask this before they start provider-backed work."""
        async with self._units.reading(organization_id) as uow:
            return await uow[ReadinessRepository].readiness()
