"""Builds the path of the messages endpoint from the path of a base URL. Customers' and operators' URLs follow it."""

from typing import Final

MESSAGES_PATH: Final = "/v1/messages"

# The ends of paths of other endpoints, which are pasted instead of the base URL. Compared without case: a path that
# ends in `v1/messages` exactly is the messages endpoint itself.
_OTHER_ENDPOINTS: Final = frozenset(
    {
        "anthropic/messages",
        "chat/completions",
        "messages/batches",
        "messages/count_tokens",
        "v1/complete",
        "v1/completions",
        "v1/embeddings",
        "v1/messages",
        "v1/models",
        "v1/responses",
    }
)


def messages_path(path: str) -> str | None:
    """Return the path of the messages endpoint; None if the path is that of another endpoint.

    Runs of slashes and a trailing slash are removed. `/v1/messages` is kept, and completed or added where it is missing.
    """
    segments = [segment for segment in path.split("/") if segment]
    kept, end = "/".join(segments), "/".join(segments[-2:])
    if end == "v1/messages":
        return f"/{kept}"
    if end.lower() in _OTHER_ENDPOINTS:
        return None
    if not kept:
        return MESSAGES_PATH
    return f"/{kept}/messages" if segments[-1] == "v1" else f"/{kept}{MESSAGES_PATH}"
