"""Reads from a streaming replica, and the time up to which they are complete."""
