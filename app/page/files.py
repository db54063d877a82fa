"""The files of the page, read once. The table is closed: a name that is not in it is not served."""

import gzip
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).parent / "files"
_MEDIA_TYPES = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
# Loaded only when they are used, so a browser need not fetch them before.
_ON_DEMAND = ("callback.js", "oidc.js", "vendor/oauth4webapi.js", "frame.js")


@dataclass(frozen=True, slots=True, kw_only=True)
class PageFile:
    """One file, plain and compressed."""

    media_type: str
    content: bytes
    compressed: bytes
    etag: str

    @classmethod
    def of(cls, content: bytes, media_type: str) -> "PageFile":
        return cls(
            media_type=media_type,
            content=content,
            compressed=gzip.compress(content, mtime=0),
            etag=hashlib.sha256(content).hexdigest()[:32],
        )


def read_files() -> Mapping[str, PageFile]:
    """All files that are served, by their name below `/billing/`."""
    return {
        path.relative_to(_ROOT).as_posix(): PageFile.of(path.read_bytes(), _MEDIA_TYPES[path.suffix])
        for path in sorted(_ROOT.rglob("*"))
        if path.suffix in _MEDIA_TYPES
    }


def preloaded(files: Mapping[str, PageFile]) -> list[str]:
    """The modules that every visit needs. The browser fetches them at once, not import by import."""
    return [name for name in files if name.endswith(".js") and name not in _ON_DEMAND]
