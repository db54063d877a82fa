"""Where the parts are put together. Only here are concrete adapters named."""
