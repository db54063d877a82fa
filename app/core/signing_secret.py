"""What webhook deliveries are signed with: masked like a key."""

import base64
import os
from typing import ClassVar, NoReturn


class SigningSecret:
    """What deliveries to one endpoint are signed with. Text forms are masked, as those of a key are."""

    PREFIX: ClassVar[str] = "whsec_"
    _BYTES: ClassVar[int] = 32
    _MASK: ClassVar[str] = "SigningSecret(***)"
    __slots__ = ("_shown",)
    _shown: str

    def __init__(self, text: str) -> None:
        object.__setattr__(self, "_shown", text)

    @classmethod
    def generate(cls) -> "SigningSecret":
        return cls(cls.PREFIX + base64.b64encode(os.urandom(cls._BYTES)).decode())

    def reveal(self) -> str:
        """`whsec_` and base64. Called in `app.secret_store`, in `app.egress`, and for the one answer that shows it."""
        return self._shown

    def __repr__(self) -> str:
        return self._MASK

    __str__ = __repr__

    def __format__(self, _spec: str) -> str:
        return self._MASK

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SigningSecret) and self._shown == other._shown

    def __hash__(self) -> NoReturn:
        raise TypeError("a SigningSecret is no dictionary key")

    def __setattr__(self, _name: str, _value: object) -> NoReturn:
        raise AttributeError("a SigningSecret does not change")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a SigningSecret cannot be pickled or copied")
