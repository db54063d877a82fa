"""The secret that signs webhook deliveries, masked like an API key."""

import base64
import os
from typing import ClassVar

from app.core.keys.masked import Masked


class SigningSecret(Masked):
    """The secret that signs the deliveries to one webhook endpoint."""

    __slots__ = ()
    PREFIX: ClassVar[str] = "whsec_"
    _BYTES: ClassVar[int] = 32

    @classmethod
    def generate(cls) -> "SigningSecret":
        return cls(cls.PREFIX + base64.b64encode(os.urandom(cls._BYTES)).decode())

    def reveal(self) -> str:
        """The secret in clear text: `whsec_` and base64.

        Only `app.secret_store`, `app.egress` and the one response that shows it call this.
        """
        return self._text
