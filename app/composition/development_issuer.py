"""The issuer of development tokens. Separate from the bootstrap, so that `byok token` imports little else."""

from app.auth.signing_keys import EmbeddedIssuer
from app.core.private_file import PrivateFileRefused
from app.settings.environment import SettingsRefused
from app.settings.settings import Settings


def embedded_issuer(settings: Settings) -> EmbeddedIssuer:
    """The issuer of development tokens, with its signing key from the data directory.

    Raises:
        SettingsRefused: an external issuer is configured, or the key file cannot be used.
    """
    if settings.auth.jwks_url is not None:
        raise SettingsRefused.of(
            "AUTH__JWKS_URL",
            "an external issuer is configured, so request tokens from that issuer",
        )
    try:
        return EmbeddedIssuer.load_or_create(settings.data_dir, audience=settings.auth.audience)
    except PrivateFileRefused as error:
        raise SettingsRefused.of("DATA_DIR", f"{error}") from None
