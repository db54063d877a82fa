"""PostgreSQL: engine, sessions, units of work, migrations, locks."""
