"""What every process needs, whatever it does: settings, database engine, logging."""
