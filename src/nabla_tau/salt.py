"""The secret under which a report's fingerprints are made: a file of its owner's, kept apart from the report."""

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def salt_of(path: Path | None, run: Path) -> Iterator[bytes | None]:
    """The secret in a file; a new one, for its owner alone to read, if there is none and what it is for succeeds.

    Args:
        path: of the file; None for no secret.
        run: folder of the report, which the file may not lie in.

    Yields:
        The secret, 32 characters at least.

    Raises:
        ValueError: if the file cannot be read or made, lies in the folder, or holds too little.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with salt_of(Path(folder) / "salt", run=Path(folder) / "report") as made:
        ...         pass
        ...     with salt_of(Path(folder) / "salt", run=Path(folder) / "report") as read:
        ...         print(read == made, len(read))
        True 64
    """
    if path is None:
        yield None
        return
    if run.resolve() in path.resolve().parents:
        raise ValueError(f"Expected a salt kept apart from the report, got {path} inside {run}: choose another place.")
    made = False
    try:
        if not path.exists():
            made = _new_secret(path)
        text = _secret_in(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"Expected a text file for the salt, or a place for one, got {path}: {error}.") from error
    if len(text) < 32:
        raise ValueError(f"Expected a salt of at least 32 characters, got {len(text)} in {path}: use another file.")
    try:
        yield text.encode()
    except BaseException:
        if made:
            path.unlink()
        raise


def _new_secret(path: Path) -> bool:
    """Put a secret there, for its owner alone to read; False where another process was faster."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32) + "\n")
    except BaseException:
        path.unlink()
        raise
    return True


def _secret_in(path: Path) -> str:
    """The secret, which another process may be about to write."""
    until = time.monotonic() + 1
    while not (text := path.read_text(encoding="utf-8").strip()) and time.monotonic() < until:
        time.sleep(0.05)
    return text
