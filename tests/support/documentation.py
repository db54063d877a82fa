"""Reads the Markdown pages of the repository: code blocks, headings, links."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_BLOCK = re.compile(
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE
)
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_QUOTED_LINK = re.compile(r"`[^`\n]*\]\([^`\n]*`")
_TERMINAL = re.compile(r"# terminal (\d+)\n")
# Text of an output that differs from run to run: ids, times, and any text for `...`.
_VARYING = {
    r"\.\.\.": r".*?",
    r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}": r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    r"\d{4}-\d\d-\d\dT[\d:.]+Z": r"\d{4}-\d\d-\d\dT[\d:.]+Z",
    r"req_[0-9a-f]{32}": r"req_[0-9a-f]{32}",
}
_VARYING_TEXT = re.compile("|".join(f"({text})" for text in _VARYING))


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced code block."""

    line: int
    language: str
    text: str

    def terminal(self, default: str) -> str:
        """The terminal that the first line names, or `default`."""
        named = _TERMINAL.match(self.text)
        return named[1] if named else default


@dataclass(frozen=True, kw_only=True)
class Step:
    """A `shell` block, the terminal that it runs in, and the output that the page shows for it."""

    block: Block
    terminal: str
    shown: str | None


def pages() -> list[Path]:
    """All Markdown pages of the repository."""
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def blocks(text: str) -> list[Block]:
    """All fenced code blocks, in order."""
    return [
        Block(line=text.count("\n", 0, found.start()) + 1, language=found["language"], text=found["text"])
        for found in _BLOCK.finditer(text)
    ]


def steps(text: str) -> list[Step]:
    """The `shell` blocks of a page. A `json` or `text` block directly after one is its output."""
    found, terminal = [], "1"
    all_blocks = blocks(text)
    for block, following in zip(all_blocks, [*all_blocks[1:], None], strict=True):
        if block.language == "shell":
            terminal = block.terminal(terminal)
            is_output = following is not None and following.language in {"json", "text"}
            found.append(
                Step(
                    block=block, terminal=terminal, shown=following.text if following and is_output else None
                )
            )
    return found


def shows(output: str, shown: str) -> bool:
    """Whether the output contains the shown text, apart from white space and the varying parts."""
    compact = "".join(shown.split())
    pattern, end = "", 0
    for found in _VARYING_TEXT.finditer(compact):
        assert found.lastindex is not None
        pattern += re.escape(compact[end : found.start()]) + list(_VARYING.values())[found.lastindex - 1]
        end = found.end()
    pattern += re.escape(compact[end:])
    return re.search(pattern, "".join(output.split())) is not None


def prose(text: str) -> str:
    """The text without fenced code blocks."""
    return _BLOCK.sub("", text)


def anchors(text: str) -> set[str]:
    """The anchors that headings create, as on GitHub."""
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-")
        for heading in _HEADING.findall(prose(text))
    }


def links(text: str) -> Iterator[str]:
    """The targets of all links that stay in the repository."""
    for target in _LINK.findall(_QUOTED_LINK.sub("", prose(text))):
        if not target.startswith(("https://", "http://", "mailto:")):
            yield target
