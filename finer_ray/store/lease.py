"""The lease: one run at a time writes to an export, whatever machine it is started on."""

import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from finer_ray.errors import FinerRayError, LeaseError, StoreError
from finer_ray.store.storage import Folder

FOLDER = "lease"
# A lease file that cannot be read is one that is just being written, or removed; after so many seconds, a damaged one.
HALF_WRITTEN = 2.0


class Holder(BaseModel):
    """Who holds an export, as its lease file says.

    Attributes:
        owner: random, of one run.
        host, pid: where it runs.
        system: names the machine's boot and process namespace, inside which pids can be asked about.
        started, renewed, expires: seconds since 1970.
        progress: what the run last said of itself.
        released: whether the run has given the lease back. Its file stays, so that no number is used twice.
    """

    model_config = ConfigDict(frozen=True)

    owner: str
    host: str
    pid: int
    system: str
    started: float
    renewed: float
    expires: float
    progress: dict[str, float] = {}
    released: bool = False

    @property
    def alive(self) -> bool:
        """Whether the run may still be writing."""
        if self.released:
            return False
        if self.system and self.system == _system() and not _running(self.pid):
            return False
        return time.time() < self.expires


class Lease:
    """A lease that this process holds; `check` raises once it is lost."""

    def __init__(self, folder: Folder, number: int, holder: Holder, seconds: float) -> None:
        self._folder, self._number, self._holder, self._seconds = folder, number, holder, seconds
        self._progress: dict[str, float] = {}
        self._over = threading.Event()
        self._lost: str | None = None
        self._thread = threading.Thread(target=self._renew, daemon=True, name="lease")
        self._thread.start()

    def report_progress(self, **progress: float) -> None:
        """Progress that the next renewal writes down, for `finer-ray status`."""
        self._progress = progress

    def raise_if_lost(self) -> None:
        """Make sure that the lease is still ours: by what the last renewal saw, or by looking where none has come
        through for so long that others may have taken over. Raises LeaseError."""
        if self._lost is None and time.time() >= self._holder.expires:
            self._look()
        if self._lost is not None:
            raise LeaseError(
                f"this run was held up, and {self._lost}: {self._folder.url}. It has published nothing since; run the "
                "same command again when the other run has ended"
            )

    def confirm_held(self) -> None:
        """Make sure of it by looking, before something is published. Raises LeaseError."""
        self._look()
        self.raise_if_lost()

    def release(self) -> None:
        """Give it back. Where the store does not answer, it ends by itself."""
        self._over.set()
        self._thread.join()
        with suppress(FinerRayError):
            self._look()
            if self._lost is not None:
                return
            try:
                self._write(released=True, expires=time.time())
            except StoreError:
                # On a full disk there is room for no file, but one can be removed.
                self._folder.remove(_name(self._number))

    def _renew(self) -> None:
        while not self._over.wait(self._seconds / 4):
            try:
                self._look()
                if self._lost is not None:
                    return
                now = time.time()
                self._write(renewed=now, expires=now + self._seconds, progress=self._progress)
            except Exception:  # noqa: S112 - a store that does not answer for a moment is tried again at the next turn
                continue

    def _write(self, **news: Any) -> None:
        holder = self._holder.model_copy(update=news)
        self._folder.write(_name(self._number), holder.model_dump_json().encode())
        # Only now: what could not be written down, others do not know.
        self._holder = holder

    def _look(self) -> None:
        number, holder = _latest(self._folder)
        if number > self._number:
            self._lost = f"{'another run' if holder is None else _who(holder)} has taken over"
        elif number < self._number:
            self._lost = "its lease is gone"
        elif holder is not None and holder.owner != self._holder.owner:
            self._lost = f"{_who(holder)} has its lease"


@contextmanager
def acquire(folder: Folder, seconds: float) -> Iterator[Lease]:
    """Hold an export's lease for a while; it is renewed in the background, and ends by itself when this process does.

    Leases are numbered files, each created by one run alone (exclusively, which local file systems, S3, GCS and Azure
    all can), and the highest number holds. A lease that was given back, has expired, or whose process on this machine
    is gone, is followed by creating the next number, so that of several that try only one succeeds. The file with the
    highest number always stays: a run that goes on after it stood still finds a higher one, whatever came between.

    Args:
        folder: the export's.
        seconds: without renewal, after which others may take over. Clocks should agree to a fraction of that.

    Raises:
        LeaseError: another run holds it.
    """
    lease = _create(folder, seconds)
    try:
        yield lease
    finally:
        lease.release()


def current(folder: Folder) -> Holder | None:
    """Who holds an export, or held it last and was not able to give it back."""
    holder = _latest(folder)[1]
    return None if holder is None or holder.released else holder


def _create(folder: Folder, seconds: float) -> Lease:
    number, other = _latest(folder)
    if other is not None and other.alive:
        raise LeaseError(_refusal(folder, other))
    now = time.time()
    ours = Holder(
        owner=secrets.token_hex(8),
        host=socket.gethostname(),
        pid=os.getpid(),
        system=_system(),
        started=now,
        renewed=now,
        expires=now + seconds,
    )
    number += 1
    try:
        folder.create(_name(number), ours.model_dump_json().encode())
    except FileExistsError:
        other = _latest(folder)[1]
        # It is ours where the store's first answer was lost, and it was created twice.
        if other is None or other.owner != ours.owner:
            raise LeaseError(_refusal(folder, other)) from None
    # Between looking and creating, a faster run may have taken over, ended, and been followed by another.
    numbers = _numbers(folder)
    if numbers[-1:] != [number]:
        folder.remove(_name(number))
        raise LeaseError(_refusal(folder, _latest(folder)[1]))
    for old in numbers[:-1]:
        folder.remove(_name(old))
    return Lease(folder, number, ours, seconds)


def _latest(folder: Folder) -> tuple[int, Holder | None]:
    """The highest number and its holder, None where its file is damaged; 0 and None where there is none."""
    deadline = time.monotonic() + HALF_WRITTEN
    while numbers := _numbers(folder):
        holder = _holder(folder, numbers[-1])
        if holder is not None or time.monotonic() > deadline:
            return numbers[-1], holder
        time.sleep(0.02)
    return 0, None


def _holder(folder: Folder, number: int) -> Holder | None:
    content = folder.read(_name(number))
    try:
        return None if content is None else Holder.model_validate_json(content)
    except ValidationError:
        return None


def _numbers(folder: Folder) -> list[int]:
    names = (name.removesuffix(".json") for name in folder.names(FOLDER, ".json"))
    return sorted(int(name) for name in names if name.isdigit())


def _name(number: int) -> str:
    return f"{FOLDER}/{number:08d}.json"


def _system() -> str:
    """The boot and the process namespace that this process belongs to; '' where there is no /proc."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _running(pid: int) -> bool:
    """Whether a process of this machine runs; one that has ended and awaits its parent does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def _refusal(folder: Folder, holder: Holder | None) -> str:
    if holder is None:
        return f"another run has just begun to write to {folder.url}; try again later"
    return (
        f"{_who(holder)} is writing to {folder.url}; try again when it has ended. Should it be dead, its lease ends "
        f"at {_time(holder.expires)}"
    )


def _who(holder: Holder) -> str:
    return f"another run (process {holder.pid} on {holder.host}, since {_time(holder.started)})"


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
