"""Types of the fixtures that create callers, harnesses and credentials."""

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from app.auth.principal import Caller
from tests.support.credentials.invariants import CredentialUnderTest
from tests.support.credentials.organization_harness import OrganizationHarness
from tests.support.credentials.store_variants import StoreVariant

MakeCaller: TypeAlias = Callable[[], Caller]


MakeHarness: TypeAlias = Callable[[StoreVariant], OrganizationHarness]


MakeCredentialUnderTest: TypeAlias = Callable[[StoreVariant, int], Awaitable[CredentialUnderTest]]
