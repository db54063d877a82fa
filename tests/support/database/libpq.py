"""How PostgreSQL's own library reads a URL, where it is installed."""

import ctypes
from ctypes.util import find_library

import pytest


class _Option(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_char_p) for name in ("keyword", "envvar", "compiled", "val", "label", "dispchar")),
        ("dispsize", ctypes.c_int),
    )


def read_by_libpq(url: str) -> dict[str, str] | None:
    """The parameters that the URL sets; None if the library refuses it. Skips the test if there is no library."""
    name = find_library("pq")
    if name is None:
        pytest.skip("libpq is not installed")
    library = ctypes.CDLL(name)
    library.PQconninfoParse.restype = ctypes.POINTER(_Option)
    library.PQconninfoParse.argtypes = [ctypes.c_char_p, ctypes.POINTER(ctypes.c_char_p)]
    options = library.PQconninfoParse(url.encode(), None)
    if not options:
        return None
    found: dict[str, str] = {}
    index = 0
    while options[index].keyword:
        if options[index].val is not None:
            found[options[index].keyword.decode()] = options[index].val.decode()
        index += 1
    return found
