"""Key files: made for their owner alone, changed without losing anything, and refused with what to do."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from flux import encryption
from flux.errors import EncryptionError


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret.key"
    encryption.make(path)
    return path


def test_what_is_encrypted_comes_back_and_does_not_show(key_file: Path) -> None:
    keys = encryption.read(key_file)
    sealed = keys.encrypt({"password": "tr0ub4dor ☃"})
    assert b"tr0ub4dor" not in sealed
    assert keys.decrypt(sealed) == {"password": "tr0ub4dor ☃"}
    assert keys.encrypt({"password": "tr0ub4dor ☃"}) != sealed


def test_a_key_file_is_for_its_owner_alone_and_is_not_overwritten(key_file: Path) -> None:
    before = key_file.read_text()
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    with pytest.raises(EncryptionError, match="--rotate"):
        encryption.make(key_file)
    assert key_file.read_text() == before


def test_a_new_key_encrypts_and_the_old_one_still_decrypts(key_file: Path) -> None:
    old = encryption.read(key_file)
    sealed = old.encrypt({"a": "b"})
    keys = encryption.put_new_first(key_file)
    assert keys.lines[1:] == old.lines
    assert (keys.decrypt(sealed), keys.is_newest(sealed)) == ({"a": "b"}, False)
    anew = keys.encrypt({"a": "b"})
    assert keys.is_newest(anew)
    with pytest.raises(EncryptionError):
        old.decrypt(anew)
    assert encryption.keep_first(key_file) == 1
    assert encryption.read(key_file).decrypt(anew) == {"a": "b"}
    with pytest.raises(EncryptionError):
        encryption.read(key_file).decrypt(sealed)


def test_what_was_changed_is_not_decrypted(key_file: Path) -> None:
    keys = encryption.read(key_file)
    sealed = bytearray(keys.encrypt({"a": "b"}))
    sealed[20] ^= 1
    with pytest.raises(EncryptionError, match="cannot be decrypted"):
        keys.decrypt(bytes(sealed))


def test_without_a_key_file_the_command_that_makes_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(EncryptionError, match=r"'.*/none\.key'.*does not exist.*`flux connection key`"):
        encryption.read(tmp_path / "none.key")
    with pytest.raises(EncryptionError, match="does not exist"):
        encryption.put_new_first(tmp_path / "none.key")
    assert not (tmp_path / "none.key").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "no key in it"), ("# a comment\n\n", "no key in it"), ("ü\n", "Key 1 .* is no key"), ("\udcff", "no text")],
)
def test_a_file_that_holds_no_key_is_refused_without_showing_it(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "secret.key"
    path.write_text(content, encoding="utf-8", errors="surrogateescape")
    path.chmod(0o600)
    with pytest.raises(EncryptionError, match=words) as caught:
        encryption.read(path)
    assert "short" not in str(caught.value)


@pytest.mark.parametrize(
    ("mode", "allowed"), [(0o600, True), (0o400, True), (0o440, True), (0o644, False), (0o660, False)]
)
def test_a_key_file_that_others_may_read_is_refused_with_the_command_that_mends_it(
    key_file: Path, mode: int, allowed: bool
) -> None:
    key_file.chmod(mode)
    if allowed:
        assert len(encryption.read(key_file).lines) == 1
    else:
        with pytest.raises(EncryptionError, match=rf"`chmod 600 {key_file}`"):
            encryption.read(key_file)


def test_a_file_without_a_key_is_filled_with_one_and_its_folder_made(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "secret.key"
    encryption.make(path)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    path.write_text("# für später\n")
    encryption.make(path)
    assert len(encryption.read(path).lines) == 1


def test_a_key_file_may_have_comments_in_any_language_and_begin_with_a_mark(key_file: Path) -> None:
    key_file.write_text(f"# Schlüssel\n{key_file.read_text()}", encoding="utf-8-sig")
    assert len(encryption.read(key_file).lines) == 1


def test_a_rotation_through_a_link_changes_the_file_and_leaves_the_link(tmp_path: Path, key_file: Path) -> None:
    link = tmp_path / "link.key"
    link.symlink_to(key_file)
    with encryption.held(link, changing=True):
        encryption.put_new_first(link)
    assert link.is_symlink()
    assert len(encryption.read(key_file).lines) == 2


def test_a_folder_in_the_place_of_a_key_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EncryptionError, match="is no file"):
        encryption.read(tmp_path)
    with pytest.raises(EncryptionError, match="is no file"):
        encryption.make(tmp_path)


def test_a_folder_that_cannot_be_written_is_named() -> None:
    with pytest.raises(EncryptionError, match="cannot be written"):
        encryption.make(Path("/proc/none/secret.key"))
