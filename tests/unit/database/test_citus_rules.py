"""The rules for migrations of cells on workers; the statements themselves run in `tests/integration/database`."""

import pytest

from tests.support.database.citus_rules import refused_on_citus


class TestRefusedOnCitus:
    @pytest.mark.parametrize(
        "statement",
        [
            "CREATE POLICY own ON thing AS RESTRICTIVE USING (true)",
            "ALTER TABLE thing\n ADD CONSTRAINT a CHECK (b > 0),\n ADD COLUMN c integer",
            "CREATE TRIGGER t BEFORE INSERT ON thing FOR EACH ROW EXECUTE FUNCTION f()",
            "INSERT INTO thing SELECT organization_id FROM other ON CONFLICT DO NOTHING",
        ],
    )
    def test_names_a_reason(self, statement: str) -> None:
        assert refused_on_citus(statement)

    @pytest.mark.parametrize(
        "statement",
        [
            "CREATE FUNCTION f() RETURNS text LANGUAGE sql AS $$ UPDATE thing SET a = random() $$",
            "COMMENT ON TABLE thing IS 'see CREATE TRIGGER'",
            "ALTER TABLE thing ADD COLUMN b integer, ADD COLUMN c numeric(10, 2)",
            "INSERT INTO thing VALUES (1, (SELECT 2))",
        ],
    )
    def test_is_silent_about_others(self, statement: str) -> None:
        assert refused_on_citus(statement) is None
