"""When a key is validated again."""

import random
from dataclasses import dataclass
from datetime import datetime, timedelta

from app.credentials.validation_results import (
    ResultEffect,
    ValidationResult,
    not_before,
    retry_delay,
    second_probe_delay,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationSchedule:
    """The times of validations. `every` is `None` to disable periodic validation; retries happen all the same."""

    every: timedelta | None

    def next_validation_at(
        self, checked_at: datetime, result: ValidationResult, effect: ResultEffect
    ) -> datetime | None:
        """Return when the next validation is due, or `None` if none is.

        A key whose invalid result needs a second probe is due in 1 to 5 minutes. After an indeterminate result it is
        due after 1, 2, 5 and 15 minutes, then every hour; `every` bounds that. Otherwise it is due after `every`, plus or
        minus 10 %. No retry is earlier than the provider's `Retry-After`.

        Args:
            checked_at: when the validation finished.
            result: its result.
            effect: what the result changed.
        """
        if effect.is_suspected:
            return checked_at + second_probe_delay(retry_after=result.retry_after)
        if effect.indeterminate_streak:
            delay = retry_delay(effect.indeterminate_streak)
            if self.every is not None:
                delay = min(delay, self._jittered(self.every))
            return checked_at + not_before(result.retry_after, delay)
        return None if self.every is None else checked_at + self._jittered(self.every)

    @staticmethod
    def _jittered(pause: timedelta) -> timedelta:
        return pause * random.uniform(0.9, 1.1)  # noqa: S311  # spreads load; not a secret
