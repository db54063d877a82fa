"""Measures the URL policy compared with two parsers, and fuzzes it for crashes and misreadings.

python -m bench.url_policy               microseconds per URL, and the ratio to pydantic's parser
python -m bench.url_policy --fuzz N      check N random URLs; print every failure
"""
# ruff: noqa: RUF001  # the URLs contain look-alike characters on purpose

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

import httpx
from pydantic import AnyHttpUrl, TypeAdapter

from app.core.url_errors import UrlRefused
from app.provider_url.url import OptionalProviderURL, ProviderURL
from tests.support.url_parsers import parser_differences

# At a higher cost, developers would be tempted to validate less often.
MAX_RATIO: Final = 15.0
ROUNDS: Final = 150
REPEATS: Final = 20

URLS: Final = (
    "https://api.anthropic.com",
    "https://api.anthropic.com/v1/messages",
    "https://api.deepseek.com/anthropic",
    "https://gateway.ai.cloudflare.com/v1/0123456789abcdef0123456789abcdef/production/anthropic",
    "https://CONTOSO-AI.Services.AI.Azure.com:443/anthropic/v1/",
    "https://gw.example.com/team%20a/anthropic",
    "https://bücher.example.com/anthropic",
)

SEEDS: Final = (
    *URLS,
    "https://faß.日本語.example.com/é",
    "https://xn--bcher-kva.example.com/a;b=c/@d",
    "https://127.0.0.1/",
    "https://0x7f.1",
    "https://[::ffff:7f00:1]:443/",
    "https://user:password@gw.example.com:443/v1?a=b#c",
    "https://metadata.google.internal./computeMetadata/v1/",
)
TOKENS: Final = (
    *(
        "https:",
        "//",
        "/",
        "\\",
        "@",
        ":",
        "443",
        "?",
        "#",
        "[",
        "]",
        "%",
        "%2e",
        "%2F",
        "%c3%a9",
        ".",
        "..",
        "-",
        "_",
        "xn--",
    ),
    *(
        "0x",
        "127",
        "localhost",
        "internal",
        "v1",
        "messages",
        " ",
        "\t",
        "\n",
        "\0",
        "。",
        "．",
        "／",
        "＠",
        "：",
        "１",
        "①",
        "⒈",
    ),
    *(
        "\u212a",
        "\u0130",
        "\u00df",
        "\u03c2",
        "\u0301",
        "\u200c",
        "\u200d",
        "\u00ad",
        "\ufe0f",
        "\u05d0",
        "\u0661",
        "\ud800",
    ),
)


def measure() -> int:
    field = TypeAdapter(OptionalProviderURL)
    any_http_url = TypeAdapter(AnyHttpUrl)
    contestants: dict[str, Callable[[str], object]] = {
        "ProviderURL": field.validate_python,
        "pydantic AnyHttpUrl": any_http_url.validate_python,
        "httpx.URL": httpx.URL,
    }
    best = {name: float("inf") for name in contestants}
    # Alternate short rounds and take the best CPU time of many, so that other load affects all of them equally.
    for _ in range(ROUNDS):
        for name, parse in contestants.items():
            best[name] = min(best[name], _microseconds(parse))
    reference = best["pydantic AnyHttpUrl"]
    for name, microseconds in best.items():
        print(f"{name:22}{microseconds:8.2f} us/URL{microseconds / reference:8.2f}x")
    return 0 if best["ProviderURL"] <= MAX_RATIO * reference else 1


def _microseconds(parse: Callable[[str], object]) -> float:
    started_at = time.process_time()
    for _ in range(REPEATS):
        for url in URLS:
            parse(url)
    return (time.process_time() - started_at) / (REPEATS * len(URLS)) * 1e6


def fuzz(count: int, seed: int) -> int:
    source = random.Random(seed)
    outcomes: Counter[str] = Counter()
    wrong = 0
    started_at = time.perf_counter()
    for _ in range(count):
        text = _mutant(source)
        try:
            url = ProviderURL(text)
        except UrlRefused as refusal:
            outcomes[refusal.reason.value] += 1
            continue
        except Exception as error:  # noqa: BLE001  # every other exception is a finding
            outcomes["crashed"] += 1
            findings = [f"{type(error).__name__}: {error}"]
        else:
            outcomes["ok"] += 1
            findings = list(parser_differences(text, url))
        for finding in findings:
            wrong += 1
            print(f"{text!a}: {finding!a}")
    for outcome, times in outcomes.most_common():
        print(f"{outcome:24}{times:9}")
    print(f"{count} inputs (seed {seed}), {wrong} findings, {time.perf_counter() - started_at:.0f} s")
    return 1 if wrong else 0


def _mutant(source: random.Random) -> str:
    text = source.choice(SEEDS)
    for _ in range(source.randint(1, 4)):
        start = source.randint(0, len(text))
        match source.randint(0, 4):
            case 0:
                piece, end = source.choice(TOKENS), start
            case 1:
                piece, end = source.choice(TOKENS), start + 1
            case 2:
                piece, end = (
                    chr(source.randint(0, 0x7F) if source.random() < 0.5 else source.randint(0, 0x2FFFF)),
                    start,
                )
            case 3:
                piece, end = "", start + source.randint(1, 4)
            case _:
                other = source.choice(SEEDS)
                piece, end = other[source.randint(0, len(other)) :], len(text)
        text = text[:start] + piece + text[end:]
    return text


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--fuzz", type=int, metavar="N", default=0)
    arguments.add_argument("--seed", type=int, default=0)
    options = arguments.parse_args()
    sys.exit(fuzz(options.fuzz, options.seed) if options.fuzz else measure())
