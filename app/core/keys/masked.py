"""What a secret in memory does: it hides itself. Nothing here knows what the secret is for."""

from typing import NoReturn


class Masked:
    """A text that is never printed. Its text forms are masked; it cannot be pickled, copied, hashed or changed."""

    __slots__ = ("_text",)
    _text: str

    def __init__(self, text: str) -> None:
        object.__setattr__(self, "_text", text)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(***)"

    __str__ = __repr__

    def __format__(self, _spec: str) -> str:
        return repr(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Masked) and type(other) is type(self) and self._text == other._text

    def __hash__(self) -> NoReturn:
        raise TypeError("a key or secret cannot be hashed")

    def __setattr__(self, _name: str, _value: object) -> NoReturn:
        raise AttributeError("a key or secret cannot be changed")

    def __reduce__(self) -> NoReturn:
        raise TypeError("a key or secret cannot be pickled or copied")
