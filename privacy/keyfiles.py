"""Files that hold secrets: owner-only, written whole or not at all, never written over.

POSIX permissions are checked on reading as well as set on writing: a key file that others can read has
already leaked, and going on as if it had not helps nobody.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from privacy.errors import BadInput, Refused, StorageError

__all__ = ["read_key_file", "replace_key_file", "write_key_file"]

_LIMIT = 65_536  # bytes; no key file comes near it


def write_key_file(path: Path, content: bytes) -> None:
    """Create `path` with mode 0600 and `content`, durably; the name appears only once all is written.

    Raises `Refused` (rule `key_file_exists`) if the file is there already: writing over a key would make
    everything sealed or derived under it unreadable. Raises `StorageError` if the disk refuses.
    """
    if path.exists() or path.is_symlink():
        raise _exists(path)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            # A link, unlike a rename, fails when another process has made the name meanwhile.
            os.link(draft, path)
        finally:
            draft.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except FileExistsError:
        raise _exists(path) from None
    except OSError as error:
        raise StorageError(f"The key file {path} could not be written: {error.strerror}.") from error


def replace_key_file(path: Path, content: bytes) -> None:
    """Put `content` in the place of an existing key file, mode 0600, durably: afterwards either is whole.

    For a file that only gains keys; the caller sees to it that none is lost. Raises `StorageError`.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise StorageError(f"The key file {path} could not be written: {error.strerror}.") from error


def read_key_file(path: Path) -> bytes:
    """Return the content of a key file.

    Raises `BadInput` if there is no such file or it is far too long, `Refused` (rule
    `key_file_permissions`) if anyone but its owner may read or write it.
    """
    try:
        # Checked on the open file, so that it cannot be exchanged between the check and the reading.
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BadInput(f"{path} is not a regular file.", code="bad_key_file")
            if stat.S_IMODE(status.st_mode) & 0o077:
                raise Refused(
                    f"The key file {path} can be read or written by others.",
                    rule="key_file_permissions",
                    code="key_file_permissions",
                    advice=f"Treat the key as leaked; if you are sure it is not, run: chmod 600 {path}",
                )
            content = file.read(_LIMIT + 1)
    except FileNotFoundError:
        raise BadInput(f"There is no key file at {path}.", code="bad_key_file") from None
    except IsADirectoryError:
        raise BadInput(f"{path} is a folder, not a key file.", code="bad_key_file") from None
    except OSError as error:
        raise StorageError(f"The key file {path} could not be read: {error.strerror}.") from error
    if len(content) > _LIMIT:
        raise BadInput(f"{path} is too long to be a key file.", code="bad_key_file")
    return content


def _exists(path: Path) -> Refused:
    return Refused(
        f"There is a key file at {path} already, and a key is never written over.",
        rule="key_file_exists",
        code="key_file_exists",
        advice="Choose another place, or move the old file away first.",
    )
