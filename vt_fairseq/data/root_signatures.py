"""Whose word it is that a data directory's videos lie in a certain folder, and a library's model.

A data.json that somebody else wrote could name any folder of this machine, and what is opened below
it would be shown. So ``vt-prepare`` signs the folder's name with a secret key of the user's own
(HMAC-SHA256), which it makes in ``$XDG_CONFIG_HOME/vt_fairseq/key`` (``~/.config`` by default),
readable by the user alone. The signature goes wherever the data directory goes; it holds on all
machines that share the key's folder, and for nobody else. A library names its checkpoint likewise.
"""

import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path

KEY_BYTES = 32
VIDEO_ROOT, CHECKPOINT = "video_root", "checkpoint"


def sign(root: Path, purpose: str = VIDEO_ROOT) -> str:
    """The signature of an absolute path, in hexadecimal; makes the key if there is none.

    A signature for one ``purpose`` is none for another.

    Raises OSError where there is no place for the key.
    """
    return _signature(root, purpose, _read_key() or _make_key())


def is_signed(root: Path, signature: object, purpose: str = VIDEO_ROOT) -> bool:
    """Whether ``signature``, which may be anything, is this user's for ``root``."""
    key = _read_key()
    if key is None or not isinstance(signature, str):
        return False
    expected = _signature(root, purpose, key)
    return hmac.compare_digest(expected.encode(), signature.encode(errors="surrogatepass"))


def _signature(root: Path, purpose: str, key: bytes) -> str:
    message = purpose.encode() + b"\0" + os.fsencode(root)
    return hmac.new(key, message, hashlib.sha256).hexdigest()


def _key_file() -> Path:
    base = os.environ.get("XDG_CONFIG_HOME", "")
    try:
        folder = Path(base) if os.path.isabs(base) else Path.home() / ".config"
    except RuntimeError as error:  # a user without a home
        raise OSError(str(error)) from error
    return folder / "vt_fairseq" / "key"


def _read_key() -> bytes | None:
    """The key; None where there is none that can be read, which signs nothing."""
    with contextlib.suppress(OSError), open(_key_file(), "rb") as file:
        key = file.read(KEY_BYTES + 1)
        return key if len(key) == KEY_BYTES else None
    return None


def _make_key() -> bytes:
    """A new key, or the one that another process of the user has made meanwhile."""
    path = _key_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".key.{os.getpid()}.{secrets.token_hex(8)}")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with open(handle, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(partial, path)  # whole, and never over another
    finally:
        os.unlink(partial)
    key = _read_key()
    if key is None:
        raise OSError(f"{path} is damaged, expected {KEY_BYTES} bytes: remove it")
    return key
