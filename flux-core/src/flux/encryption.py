"""The encryption of stored secrets: a key file, and what it encrypts and decrypts.

A key file has one Fernet key a line (AES-128-CBC with HMAC-SHA-256, by `cryptography`). The first encrypts, all of them
decrypt, so a new key can be put before the old one, everything encrypted anew, and the old one dropped, one after the
other. Nobody but the file's owner, and at most its group, may read it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from flux.errors import EncryptionError

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

_READ_BY_OTHERS = stat.S_IROTH | stat.S_IWOTH | stat.S_IWGRP


class Keys:
    """The keys of a key file, the one that encrypts first. At least one.

    Raises:
        EncryptionError: a line is no key; the message names its number, never the line.
    """

    def __init__(self, path: Path, lines: Sequence[str]) -> None:
        from cryptography.fernet import Fernet, MultiFernet

        self.path = path
        self.lines = tuple(lines)
        keys = []
        for number, line in enumerate(self.lines, 1):
            try:
                keys.append(Fernet(line))
            except ValueError as error:
                raise EncryptionError(
                    f"Key {number} of key file {str(path)!r} is no key. It is 44 characters of URL-safe base64; "
                    "`flux connection key` makes one."
                ) from error
        self._all: MultiFernet = MultiFernet(keys)
        self._first = keys[0]

    def encrypt(self, texts: Mapping[str, str]) -> bytes:
        """Return texts by name, encrypted with the first key."""
        return self._first.encrypt(json.dumps(dict(texts)).encode())

    def decrypt(self, data: bytes) -> dict[str, str]:
        """Return what `encrypt` got.

        Raises:
            EncryptionError: no key of the file is the one it was encrypted with, or `data` was changed.
        """
        from cryptography.fernet import InvalidToken

        try:
            texts: dict[str, str] = json.loads(self._all.decrypt(data))
        except InvalidToken:
            raise EncryptionError(
                f"it cannot be decrypted with key file {str(self.path)!r}. Put the key it was encrypted with into that "
                "file, on a line of its own; or delete the connection and add it again."
            ) from None
        return texts

    def is_newest(self, data: bytes) -> bool:
        """Say whether the first key encrypted `data`."""
        from cryptography.fernet import InvalidToken

        try:
            self._first.decrypt(data)
        except InvalidToken:
            return False
        return True


def read(path: Path) -> Keys:
    """Return the keys of a key file.

    Raises:
        EncryptionError: there is none, it cannot be read, others may read it, or it holds no key.
    """
    return Keys(path, _lines(path) or _no_key(path))


@contextlib.contextmanager
def held(path: Path, *, changing: bool) -> Iterator[None]:
    """Keep the keys of a file as they are until the block ends, on this machine; wait for who changes them.

    Who encrypts holds them from reading the file to the commit, so that no key is dropped that is about to be needed.

    Args:
        changing: this block changes them: nobody else may be in one.
    """
    path = path.resolve()
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise EncryptionError(
            f"Folder {str(path.parent)!r} of the key file: {error.strerror}. Make it first."
        ) from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX if changing else fcntl.LOCK_SH)
        yield
    finally:
        os.close(folder)


def make(path: Path) -> None:
    """Make a key file with one new key, and its folder, readable by their owner alone. An empty file is filled.

    Raises:
        EncryptionError: it has a key already, or cannot be written.
    """
    if path.exists() and _lines(path):
        raise EncryptionError(f"Key file {str(path)!r} is there already. To replace its key, use --rotate.")
    _write(path, [_new_key()])


def put_new_first(path: Path) -> Keys:
    """Put a new key before those of a key file, and return all of them."""
    keys = read(path)
    _write(path, [_new_key(), *keys.lines])
    return read(path)


def keep_first(path: Path) -> int:
    """Drop every key but the first, and return how many those were. What only they decrypt is lost."""
    keys = read(path)
    _write(path, keys.lines[:1])
    return len(keys.lines) - 1


def _new_key() -> str:
    from cryptography.fernet import Fernet

    return Fernet.generate_key().decode()


def _lines(path: Path) -> list[str]:
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise EncryptionError(f"Key file {str(path)!r} is no file. Move it away, or set secret_key_file anew.")
        if mode & _READ_BY_OTHERS:
            raise EncryptionError(
                f"Key file {str(path)!r} can be read by others, or changed by its group. Run `chmod 600 {path}`."
            )
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        _no_key(path)
    except (OSError, UnicodeError) as error:
        cause = error.strerror if isinstance(error, OSError) else "it is no text"
        raise EncryptionError(f"Key file {str(path)!r} cannot be read: {cause}.") from error
    stripped = (line.strip() for line in text.splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def _no_key(path: Path) -> NoReturn:
    state = "has no key in it" if path.exists() else "does not exist"
    raise EncryptionError(
        f"Key file {str(path)!r} (option secret_key_file) {state}, and secrets are stored encrypted only. "
        "Run `flux connection key` to make one, and keep a copy where the database's backups are not."
    )


def _write(path: Path, lines: Sequence[str]) -> None:
    """Replace the file whole, so that a reader and a crash see the old or the new one. A link to it stays a link."""
    path = path.resolve()
    temporary = path.with_name(f"{path.name}.new")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            temporary.unlink()
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write("\n".join(lines) + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise EncryptionError(f"Key file {str(path)!r} cannot be written: {error.strerror}.") from error
