"""Which statements a migration may not use, because Citus refuses or changes them for tables of a cell on a worker.

`docs/explanation/scaling.md` has the list, and a test compares it with a cluster.
"""

import re

_ALTER = r"ALTER TABLE (?:IF EXISTS )?(?:ONLY )?\S+ "
# The reason by what a statement looks like, without its texts and comments, with single spaces.
_REFUSED = {
    r"^CREATE (?:OR REPLACE )?(?:CONSTRAINT )?TRIGGER\b": "triggers are not supported",
    r"^CREATE POLICY .* AS RESTRICTIVE\b": "a restrictive policy is a permissive one on the workers",
    r"\bGENERATED (?:ALWAYS|BY DEFAULT) AS IDENTITY\b": "identity columns are not supported",
    r"^(?:GRANT|REVOKE) (?:SELECT|INSERT|UPDATE|REFERENCES) \(": "privileges of columns are not supported",
    rf"^{_ALTER}.*\bADD (?:CONSTRAINT|CHECK|UNIQUE|PRIMARY|FOREIGN)\b.*, (?:ADD|ALTER|DROP|VALIDATE)\b": "one ADD CONSTRAINT is one statement",
    rf"^{_ALTER}.*, ADD (?:CONSTRAINT|CHECK|UNIQUE|PRIMARY|FOREIGN)\b": "one ADD CONSTRAINT is one statement",
    rf"^{_ALTER}ALTER (?:COLUMN )?\S+ SET (?:STATISTICS|STORAGE|COMPRESSION)\b": "this ALTER TABLE is not supported",
    rf"^{_ALTER}(?:CLUSTER ON|SET WITHOUT CLUSTER|INHERIT|SET TABLESPACE)\b": "this ALTER TABLE is not supported",
    r"^(?:UPDATE|DELETE FROM) .*\b(?:clock_timestamp|random|gen_random_uuid|nextval|timeofday) ?\(": "UPDATE and DELETE accept no volatile function",
    r"^INSERT INTO (?!.*\bRETURNING\b).* SELECT\b.* FROM\b": "an INSERT that reads a table reads it in a materialized CTE",
}
_NOISE = re.compile(r"--[^\n]*|'(?:[^']|'')*'|\$(\w*)\$.*?\$\1\$", re.DOTALL)


def refused_on_citus(statement: str) -> str | None:
    """Why a migration may not use this statement. None: it may, as far as this list knows."""
    text = " ".join(_NOISE.sub("''", statement).split())
    return next((reason for pattern, reason in _REFUSED.items() if re.search(pattern, text)), None)
