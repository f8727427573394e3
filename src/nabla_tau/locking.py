"""One run at a time in a folder of checkpoints: a lock of the operating system, which no kill leaves behind."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nabla_tau.engine import Engine
from nabla_tau.errors import InvalidRequest

try:
    import fcntl
except ImportError:  # no such locks on this system
    fcntl = None  # type: ignore[assignment]

LOCK = "lock"

_HELD: set[int] = set()


def _leave_to_parent() -> None:
    """In a forked worker: the lock is to end with the process that took it, not with the last of its children."""
    for descriptor in _HELD:
        with suppress(OSError):
            os.close(descriptor)
    _HELD.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_parent)


@contextmanager
def alone_in(folder: Path, engine: Engine) -> Iterator[None]:
    """Have a folder to oneself, as long as what is inside lasts; the main process holds the lock for all of them.

    Where the file system has no locks, nothing is held and nothing refused. A folder that was made for the lock and
    holds nothing else at the end is removed.

    Raises:
        InvalidRequest: at once, if another run works in it.

    Example:
        >>> import tempfile
        >>> from nabla_tau.engine import start_engine
        >>> engine = start_engine("cpu")
        >>> with tempfile.TemporaryDirectory() as folder, alone_in(Path(folder), engine):
        ...     with alone_in(Path(folder), engine):
        ...         pass
        Traceback (most recent call last):
        nabla_tau.errors.InvalidRequest: 1 problem found, nothing was changed:
        1. checkpoint: expected a folder that no other run works in, got .../..., where process ... on ... does: ...
    """
    made = [place for place in (folder, *folder.parents) if not place.exists()] if engine.is_main else []
    descriptor, holder = _taken(folder) if engine.is_main else (None, "")
    try:
        if engine.from_main(bool(holder)):
            raise InvalidRequest(
                [
                    f"checkpoint: expected a folder that no other run works in, got {folder}, where "
                    f"{holder or 'another process'} does: wait for its end, or name another folder."
                ]
            )
        yield
    finally:
        if descriptor is not None:
            _release(folder / LOCK, descriptor)
        for place in made:
            with suppress(OSError):  # it holds something, or is gone
                place.rmdir()


def holder_of(folder: Path) -> str:
    """Which process works in a folder, if one does; nothing is made, taken or changed.

    Example:
        >>> holder_of(Path("runs/that-never-was"))
        ''
    """
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return ""
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # given back as the file is closed
    except BlockingIOError:
        return _name(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
    return ""


def _taken(folder: Path) -> tuple[int | None, str]:
    """What holds the lock, if anything does here; else who holds it, if that is known to be someone."""
    if fcntl is None:
        return None, ""
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError:  # what cannot be written is told where it is needed
            return None, ""
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _name(descriptor)
            os.close(descriptor)
            return None, holder
        except OSError:  # a file system without locks
            (folder / LOCK).unlink(missing_ok=True)
            os.close(descriptor)
            return None, ""
        if _is_at(folder / LOCK, descriptor):
            break
        os.close(descriptor)  # its holder removed the file just then
    os.ftruncate(descriptor, 0)
    os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    _HELD.add(descriptor)
    return descriptor, ""


def _name(descriptor: int) -> str:
    return os.read(descriptor, 200).decode(errors="replace").strip() or "another process"


def _release(path: Path, descriptor: int) -> None:
    _HELD.discard(descriptor)
    if _is_at(path, descriptor):
        with suppress(OSError):
            path.unlink()
    os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    """Whether the file of that name is the one that is open."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False
