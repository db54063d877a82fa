"""The results of benchmarks: values with their targets."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One line of the summary table. The target is optional."""

    name: str
    value: float
    unit: str
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def is_met(self) -> bool:
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )

    @property
    def target(self) -> str:
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return "" if self.at_most is None else f"<= {self.at_most:g}"

    @property
    def result(self) -> str:
        return "" if not self.target else "met" if self.is_met else "MISSED"


def progress(text: str) -> None:
    print(f"  {text}", flush=True)


def table(measures: Sequence[Measure]) -> str:
    """Format the summary table."""
    rows = [
        (
            m.name,
            f"{m.value:,.2f}" if m.value < 100 else f"{m.value:,.0f}",
            m.unit,
            m.target,
            m.result,
            m.note,
        )
        for m in measures
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(
        f"{name:<{widths[0]}}  {value:>{widths[1]}} {unit:<{widths[2]}}  {target:<{widths[3]}}  {result:<{widths[4]}}  {note}".rstrip()
        for name, value, unit, target, result, note in rows
    )
