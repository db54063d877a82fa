"""The groups of settings: defaults, bounds and descriptions. `docs/reference/settings.md` is generated from them."""
