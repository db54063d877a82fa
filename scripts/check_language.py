"""Finds words that the glossary replaces and phrases that are hard to read, and exits with 1 if there are any.

It reads Markdown without code blocks, docstrings, comments and messages of Python files, identifiers, comments and
texts of the billing page's modules, and the texts of the OpenAPI document. `scripts/language.toml` holds the rules: each names what to write instead. Text in backticks
is skipped, because it quotes code. Usage: scripts/check_language.py [--count] [PATH ...]
"""

import ast
import io
import json
import re
import subprocess
import sys
import tokenize
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
RULES = tomllib.loads((ROOT / "scripts" / "language.toml").read_text())
CODE = re.compile(r"```.*?```|~~~.*?~~~|`[^`\n]*`|https?://\S+|\]\([^)]*\)", re.DOTALL)
# `name_of_code`, `module.name` and placeholders in a text quote code too.
QUOTED = re.compile(r"\b\w+_\w+\b|\b\w+(?:\.\w+)+\b|\{[^{}]*\}|%\w")
SQL = re.compile(r"\b(SELECT|INSERT|UPDATE|DELETE|ALTER|CREATE|WHERE|FROM|JOIN|ORDER BY|AND)\b [\w:(*]")
PHRASES = [(re.compile(rule["find"], re.IGNORECASE), rule["say"]) for rule in RULES["phrase"]]
WORDS = {word: rule["say"] for rule in RULES["word"] for word in rule["find"]}
ALLOWED = re.compile("|".join(RULES["allowed"]), re.IGNORECASE)

JAVASCRIPT_TEXT = re.compile(
    r'//[^\n]*|/\*.*?\*/|"[^"\n]*\w \w[^"\n]*"|(?<!=)>[^<>{}`]*\w \w[^<>{}`]*', re.DOTALL
)

Text = tuple[int, str]


def blank(match: re.Match[str]) -> str:
    """Keeps the lines of what it removes, so that line numbers stay right."""
    return "\n" * match.group().count("\n") or " "


def markdown(source: str) -> Iterator[Text]:
    yield 1, source


def openapi(source: str) -> Iterator[Text]:
    def texts(node: object) -> Iterator[Text]:
        if isinstance(node, dict):
            for key, value in node.items():
                if key in {"summary", "description"} and isinstance(value, str):
                    yield 1, value
                else:
                    yield from texts(value)
        elif isinstance(node, list):
            for value in node:
                yield from texts(value)

    yield from texts(json.loads(source))


def python(source: str) -> Iterator[Text]:
    """Comments, docstrings and every string that reads like a sentence. SQL is skipped: its names are tables and columns."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not re.match(r"#\s*(noqa|type:)", token.string):
            yield token.start[0], re.sub(r"\bnoqa: [A-Z0-9, ]+", "", token.string)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and is_sentence(node.value):
            yield node.lineno, str(node.value)


def javascript(source: str) -> Iterator[Text]:
    """Comments, strings that read like a sentence, and the text between tags of a template."""
    for match in JAVASCRIPT_TEXT.finditer(source):
        yield 1 + source.count("\n", 0, match.start()), match.group()


def is_sentence(value: object) -> bool:
    return isinstance(value, str) and bool(re.search(r"\w \w", value)) and not SQL.search(value)


def names(source: str) -> Iterator[Text]:
    """Every name that the module binds."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case (
                ast.arg(arg=name)
                | ast.Name(id=name, ctx=ast.Store())
                | ast.Attribute(attr=name, ctx=ast.Store())
            ):
                yield node.lineno, name
            case _:
                pass


def findings(path: Path) -> Iterator[tuple[int, str, str]]:
    """Line, what was found, what to write instead."""
    source = path.read_text(encoding="utf-8")
    read = {".md": markdown, ".json": openapi, ".py": python, ".js": javascript}[path.suffix]
    for line, text in read(source):
        plain = QUOTED.sub(" ", CODE.sub(blank, text))
        for pattern, say in PHRASES:
            for match in pattern.finditer(plain):
                if not ALLOWED.search(
                    plain[max(0, match.start() - 25) : match.end() + 25].replace("\n", " ")
                ):
                    yield line + plain.count("\n", 0, match.start()), match.group(), say
    if path.suffix == ".py":
        for line, name in names(source):
            parts = re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", name)
            for part in parts:
                if part.lower() in WORDS and name not in RULES["allowed_names"]:
                    yield line, name, WORDS[part.lower()]


def tracked(arguments: list[str]) -> Iterator[Path]:
    given = arguments or ["app", "tests", "bench", "docs", "scripts", "openapi", "migrations/env.py", "*.md"]
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", *given],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    for name in listed:
        path = ROOT / name
        is_read = path.suffix in {".md", ".json", ".py", ".js"} and "vendor" not in path.parts
        if is_read and path.exists() and name not in RULES["skipped"]:
            yield path


def main() -> int:
    arguments = [argument for argument in sys.argv[1:] if argument != "--count"]
    counts: Counter[str] = Counter()
    for path in tracked(arguments):
        for line, found, say in findings(path):
            name = str(path.relative_to(ROOT))
            counts[name] += 1
            if "--count" not in sys.argv:
                print(f"{name}:{line}: “{' '.join(found.split())}”: {say}")
    if "--count" in sys.argv:
        for name, count in counts.most_common():
            print(f"{count:5} {name}")
    total = sum(counts.values())
    print(
        f"Language: {total} findings in {len(counts)} files."
        + (" See docs/reference/glossary.md." if total else "")
    )
    return 1 if total else 0


if __name__ == "__main__":
    sys.exit(main())
