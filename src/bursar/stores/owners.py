"""Who is alive: each store instance locks a file of its own for as long as it lives; the kernel lets go when it dies.

The same file is its journal: settlements that the database would not take, one JSON line each, synced. Whoever finds
the file unlocked writes them into the books and removes it. The turn to write is a lock too: processes queue in the
kernel instead of polling the database.
"""

import contextlib
import fcntl
import logging
import os
import secrets
from pathlib import Path

import msgspec

from bursar.types import Entry, Hold

log = logging.getLogger("bursar.stores")


class Spooled(msgspec.Struct, frozen=True):
    """A settlement that waits for the database."""

    hold: Hold
    entry: Entry


class Owner:
    """A locked owner file: ours for life, or a dead one's while we close its rows."""

    __slots__ = ("fd", "id", "path")

    def __init__(self, path: Path, fd: int) -> None:
        self.path, self.fd, self.id = path, fd, path.name

    def append(self, spooled: list[Spooled]) -> None:
        """Journal settlements, durably. OSError where even this cannot be written."""
        lines = b"".join(msgspec.json.encode(one) + b"\n" for one in spooled)
        start = os.lseek(self.fd, 0, os.SEEK_END)
        try:
            written = 0
            while written < len(lines):
                written += os.write(self.fd, lines[written:])
            os.fsync(self.fd)
        except OSError:
            with contextlib.suppress(OSError):
                os.ftruncate(self.fd, start)
            raise

    def journal(self) -> list[Spooled]:
        """What is journalled. A line cut short by a crash was never acknowledged and is left out, with a warning."""
        found: list[Spooled] = []
        for line in self.path.read_bytes().splitlines():
            try:
                found.append(msgspec.json.decode(line, type=Spooled))
            except msgspec.DecodeError as fault:
                log.warning("%s: a line of the journal cannot be read (%s) and is left out", self.path, fault)
        return found

    def clear(self) -> None:
        """The journal is in the books."""
        os.ftruncate(self.fd, 0)
        os.fsync(self.fd)

    def release(self) -> None:
        """Let go, and remove the file unless it still holds settlements."""
        if os.fstat(self.fd).st_size == 0:
            self.path.unlink(missing_ok=True)
        os.close(self.fd)

    def close(self) -> None:
        """Let go of the file as it is. In a forked child the parent's lock stays with the parent."""
        os.close(self.fd)

    def remove(self) -> None:
        """Everything of this owner is in the books."""
        self.path.unlink(missing_ok=True)
        os.close(self.fd)


class Owners:
    """The owner files beside a database."""

    def __init__(self, database: Path) -> None:
        self.folder = database.with_name(database.name + ".owners")

    def enter(self) -> Owner:
        """A new owner, locked before its first row can be written."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        while True:
            path = self.folder / f"{os.getpid()}-{secrets.token_hex(6)}"
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            fcntl.flock(fd, fcntl.LOCK_EX)
            if _linked(path, fd):
                return Owner(path, fd)
            os.close(fd)

    def names(self) -> list[str]:
        try:
            return sorted(os.listdir(self.folder))
        except FileNotFoundError:
            return []

    def take(self, name: str) -> Owner | None:
        """A dead owner's file, locked by us; None where it lives or there is no such file (see gone)."""
        path = self.folder / name
        try:
            fd = os.open(path, os.O_RDWR | os.O_APPEND)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return None
        if not _linked(path, fd):
            os.close(fd)
            return None
        return Owner(path, fd)

    def gone(self, name: str) -> bool:
        """No process holds it: the file is missing or nobody locks it."""
        try:
            fd = os.open(self.folder / name, os.O_RDONLY)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            return False
        finally:
            os.close(fd)


def _linked(path: Path, fd: int) -> bool:
    """The name still leads to the file that we locked."""
    try:
        named, held = os.stat(path), os.fstat(fd)
    except FileNotFoundError:
        return False
    return (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)


class Turn:
    """The turn to write, over all processes."""

    __slots__ = ("fd",)

    def __init__(self, database: Path) -> None:
        self.fd = os.open(database.with_name(database.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)

    def taken(self) -> "Turn":
        """For `with`: waits for the turn, and gives it back."""
        return self

    def __enter__(self) -> None:
        fcntl.flock(self.fd, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self.fd, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self.fd)
