"""The database's function `model_identity` has the same rule as the one in Python."""

from itertools import product
from random import Random

from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.model_identity import model_identity
from tests.support.database.rows import fetch

_PIECES = (
    "claude-opus-5",
    "-",
    "-latest",
    "-20260715",
    "-2026071",
    "latest",
    "20260715",
    "\n",
    " ",
    "Ünï",
    "٢٠٢٦٠٧١٥",
)


async def test_equals_the_rule_in_python(superuser: AsyncEngine) -> None:
    random = Random(1)
    ids = ["".join(pieces) for length in (1, 2, 3) for pieces in product(_PIECES, repeat=length)]
    ids += ["".join(random.choice("-1aé[@") for _ in range(12)) for _ in range(300)]

    found = await fetch(
        superuser,
        "SELECT id, model_identity(id) AS identity FROM unnest(CAST(:ids AS text[])) AS id",
        ids=ids,
    )

    assert {row["id"]: row["identity"] for row in found} == {id_: model_identity(id_) for id_ in ids}
