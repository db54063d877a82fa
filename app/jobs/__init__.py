"""The clock's way in: background jobs over the same services."""
