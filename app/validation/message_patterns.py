"""Words and codes of error messages that the operator configures beside the built-in vocabulary."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPatterns:
    """How one host says that there is no money. Codes are compared with types, codes and statuses of its errors."""

    billing_problem: tuple[str, ...] = ()
    billing_codes: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagePatterns:
    """Substrings of the provider's error messages that decide a row. Case is ignored.

    The provider does not promise these texts, so they may change at any time. `billing_problem`, `spend_cap`,
    `model_missing` and `billing_codes` extend the built-in vocabulary; the others replace theirs. `hosts` has more
    words and codes by host name; they also apply to its subdomains.
    """

    cors_refused: tuple[str, ...] = ("CORS requests are not allowed",)
    billing_problem: tuple[str, ...] = ()
    spend_cap: tuple[str, ...] = ()
    organization_disabled: tuple[str, ...] = ("organization has been disabled",)
    workspace_required: tuple[str, ...] = ("not scoped to a workspace", "anthropic-workspace-id")
    model_missing: tuple[str, ...] = ()
    billing_codes: frozenset[str] = frozenset()
    hosts: Mapping[str, HostPatterns] = field(default_factory=dict)

    def billing_words_of(self, host: str | None) -> tuple[str, ...]:
        words = self.billing_problem + self.spend_cap
        return words + tuple(word for found in self._of(host) for word in found.billing_problem)

    def is_billing_code(self, code: str, host: str | None) -> bool:
        """Whether `code`, in lower case, is configured for this host or for all hosts."""
        return code in self.billing_codes or any(code in found.billing_codes for found in self._of(host))

    def _of(self, host: str | None) -> list[HostPatterns]:
        if host is None or not self.hosts:
            return []
        return [found for name, found in self.hosts.items() if is_same_or_subdomain(host, name)]


def is_same_or_subdomain(host: str, name: str) -> bool:
    return host == name or host.endswith(f".{name}")


DEFAULT_PATTERNS = MessagePatterns()
