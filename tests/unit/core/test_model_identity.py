"""Which model ids mean the same model. Each pair is checked in both directions."""

import pytest

from app.core.model_identity import model_identity

SAME = [
    ("claude-opus-5", "claude-opus-5"),
    ("claude-haiku-4-5", "claude-haiku-4-5-20251001"),
    ("claude-3-7-sonnet-latest", "claude-3-7-sonnet-20250219"),
    ("claude-opus-5", "claude-opus-5-latest"),
    ("claude-3-5-sonnet-20240620", "claude-3-5-sonnet-20241022"),
    ("qwen3-max", "qwen3-max-20250923"),
    ("anthropic/claude-opus-5", "anthropic/claude-opus-5-20260715"),
]
DIFFERENT = [
    ("claude-opus-5", "claude-opus-5-5"),
    ("claude-opus-5", "claude-opus-5-5-20261002"),
    ("claude-opus-4-0", "claude-opus-4-20250514"),
    ("claude-fable-5", "claude-mythos-5"),
    ("claude-opus-5", "anthropic/claude-opus-5"),
    ("claude-opus-5", "us.anthropic.claude-opus-5-v1:0"),
    ("claude-haiku-4-5", "claude-haiku-4-5@20251001"),
    ("claude-opus-4-8", "claude-opus-4-8[1m]"),
    ("claude-opus-5", "Claude-Opus-5"),
    ("claude-opus-5", " claude-opus-5"),
    ("claude-opus-5", "claude-opus-5 "),
    ("claude-opus-5", "claude-opus-5-20260715 "),
    ("claude-opus-5", "claude-opus-5-20260715\n"),
    ("claude-opus-5", "claude-opus-5-2026071"),
    ("claude-opus-5", "claude-opus-5-202607150"),
    ("claude-opus-5", "claude-opus-5-2026-07-15"),
    ("claude-opus-5", "claude-opus-5-2026O715"),
    ("claude-opus-5", "claude-opus-5-" + "\u0661" * 8),
    ("claude-opus-5", "claude-opus-5-\uff12\uff10\uff12\uff16\uff10\uff17\uff11\uff15"),
    ("claude-opus-5", "claude-opus-5-"),
    ("claude-opus-5", "claude-opus-520260715"),
    ("claude-opus-5", "claude-opus-5_20260715"),
    ("claude-opus-5", "claude-opus-5\u201120260715"),
    ("claude-opus-5", "claude-opus-5-LATEST"),
    ("claude-fable-5", "claude-fable-5-latestest"),
    ("claude-fable-5", "claude-fable-5-latest-"),
    ("claude-sonnet-5", "claude-sonnet-5-20260601-20260701"),
    ("claude-sonnet-5", "claude-sonnet-5-latest-20260601"),
    ("claude-sonnet-5", "claude-sonnet-5-20260601-latest"),
    ("-latest", "-20260601"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_spellings_of_one_model_are_equal(one: str, other: str) -> None:
    assert model_identity(one) == model_identity(other)


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_nothing_else_is_equal(one: str, other: str) -> None:
    assert model_identity(one) != model_identity(other)
