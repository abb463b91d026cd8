"""What can go wrong in the roof of the house: configuration, access, request signatures, migrations."""

from __future__ import annotations

from privacy.errors import Misuse, Refused, StorageError

__all__ = [
    "ConfigError",
    "NotAuthenticated",
    "NotAuthorised",
    "NotMigrated",
    "RequestTooLarge",
]


class ConfigError(Misuse):
    """`node.toml` (or the directory it stands in) cannot be used as it is; the message names the place."""

    code = "config_error"


class NotAuthenticated(Refused):
    """No caller could be established: key or signature absent, unknown, expired, replayed or wrong."""

    code = "not_authenticated"


class NotAuthorised(Refused):
    """The caller is known and may not do this."""

    code = "not_authorised"


class RequestTooLarge(Refused):
    """The body is larger than this node accepts."""

    code = "request_too_large"


class NotMigrated(StorageError):
    """The database's tables are not those of this version."""

    code = "not_migrated"
