"""Limits of this process that the operating system enforces: no core dumps, and as many descriptors as allowed."""

import ctypes
import resource
import sys

_PR_SET_DUMPABLE = 4


def forbid_core_dumps() -> None:
    """Forbid core dumps, and let no other process of the same user attach to this one or read its memory.

    A core dump contains the key-encryption keys and every provider key that was in use. Child processes, such as the
    embedded PostgreSQL, inherit the limit on the size of a core dump.

    Raises:
        OSError: the operating system refused.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open descriptors to the hard limit, and return the limit that now holds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # for example, a hard limit above the kernel's maximum
            return soft
    return hard
