"""Benchmarks of the relay. `python -m bench.relay` compares it with others, `python -m bench.relay.soak` runs it for long."""
