"""The composition root: builds the service from its parts. Only this package names concrete adapters."""
