"""What survives a restart: uploads and jobs in SQLite, their contents in files. All access is by client.

Calls are short and made from any thread, one at a time.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .settings import Limits, ServiceError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (
    client TEXT NOT NULL, digest TEXT NOT NULL, size INTEGER NOT NULL, state TEXT NOT NULL, error TEXT NOT NULL,
    created REAL NOT NULL, PRIMARY KEY (client, digest));
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, client TEXT NOT NULL, program TEXT NOT NULL, key TEXT NOT NULL, request TEXT NOT NULL,
    samples INTEGER NOT NULL, state TEXT NOT NULL, error TEXT NOT NULL, created REAL NOT NULL, started REAL NOT NULL,
    finished REAL NOT NULL, attempts INTEGER NOT NULL, UNIQUE (client, request));
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, created);
"""
VERSION = 1
NO_LIMITS = Limits(
    keys_total=1 << 62, keys_each=1 << 62, keys_kept=1 << 62, jobs_kept=1 << 62, queue=1 << 62, queue_each=1 << 62
)

UPLOADING, CHECKING, READY, REFUSED = "uploading", "checking", "ready", "refused"
QUEUED, RUNNING, DONE, FAILED = "queued", "running", "done", "failed"
# For the client, which the program asks something; a running one for the cluster, which is away.
WAITING, STALLED = "waiting", "stalled"
_UNFINISHED = ("inputs", "checkpoint", "question", "answer")


class QuotaError(Exception):
    """A client, or all together, would have too much. status: of the answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Key:
    """Evaluation keys of a client, wholly or partly received. digest: of the manifest, which names the whole file."""

    client: str
    digest: str
    size: int
    state: str
    error: str
    created: float


@dataclass(frozen=True)
class Job:
    """One request. started, finished: 0 when not yet; attempts: how often an evaluation was begun."""

    id: str
    client: str
    program: str
    key: str
    request: str
    samples: int
    state: str
    error: str
    created: float
    started: float
    finished: float
    attempts: int


class Store:
    """The database and the folder of contents; one process holds it at a time (ServiceError)."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock_file = open(folder / "lock", "w")  # noqa: SIM115
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ServiceError(f"another service uses {os.fspath(folder)!r}") from None
        except OSError as e:
            raise ServiceError(f"cannot use {os.fspath(folder)!r}: {e.strerror}") from None
        self.folder = folder
        self._lock = threading.Lock()
        self._db = sqlite3.connect(folder / "service.sqlite", check_same_thread=False, isolation_level=None)
        self._db.row_factory = sqlite3.Row
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, VERSION):
            raise ServiceError(f"{os.fspath(folder)!r} is of version {version}; this glyphc uses version {VERSION}")
        self._db.executescript(f"PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; {_SCHEMA}")
        self._db.execute(f"PRAGMA user_version={VERSION}")

    def close(self) -> None:
        self._db.close()
        self._lock_file.close()

    def recover(self) -> int:
        """After a restart: what was running waits again, what was being checked is checked by its last chunk again.

        What was being received is received anew. Files that nothing will ask for, such as those that killed workers
        were writing, are removed; and so are keys and jobs whose files are gone, as after a back-up that was put back.
        """
        self._forget_what_is_gone()
        with self._transaction() as db:
            db.execute("UPDATE keys SET state=? WHERE state=?", (UPLOADING, CHECKING))
            waiting = db.execute("UPDATE jobs SET state=? WHERE state IN (?, ?)", (QUEUED, RUNNING, STALLED)).rowcount
            jobs = [Job(**dict(row)) for row in db.execute("SELECT * FROM jobs")]
            keys = {self.key_path(row["client"], row["digest"]) for row in db.execute("SELECT * FROM keys")}
        for folder in self.folder.glob("clients/*/incoming"):
            shutil.rmtree(folder, ignore_errors=True)
        for path in self.folder.glob("clients/*/keys/*"):
            if path not in keys:
                path.unlink(missing_ok=True)
        by_folder = {self.job_folder(job): job for job in jobs}
        for folder in self.folder.glob("clients/*/jobs/*"):
            job = by_folder.get(folder)
            if job is None:
                shutil.rmtree(folder, ignore_errors=True)
            else:
                keep = _UNFINISHED if job.state in (QUEUED, WAITING) else ("outputs",)
                _clear(folder, keep)
        return waiting

    def _forget_what_is_gone(self) -> None:
        with self._transaction() as db:
            for row in db.execute("SELECT * FROM keys WHERE state=?", (READY,)).fetchall():
                if not self.key_path(row["client"], row["digest"]).is_file():
                    db.execute("DELETE FROM keys WHERE client=? AND digest=?", (row["client"], row["digest"]))
            for row in db.execute("SELECT * FROM jobs WHERE state!=?", (FAILED,)).fetchall():
                file = "outputs" if row["state"] == DONE else "inputs"
                if not (self.job_folder(Job(**dict(row))) / file).is_file():
                    db.execute("DELETE FROM jobs WHERE id=?", (row["id"],))

    # -- keys --

    def add_key(self, client: str, digest: str, size: int, limits: Limits = NO_LIMITS) -> Key:
        """Begin an upload; one that exists already is returned as it is, unless it was refused.

        QuotaError when the client has no room for one more. Refused ones make room, the oldest first.
        """
        path = self.key_path(client, digest)
        with self._transaction() as db:
            db.execute("DELETE FROM keys WHERE client=? AND digest=? AND state=?", (client, digest, REFUSED))
            rows = db.execute("SELECT * FROM keys WHERE client=? ORDER BY created", (client,)).fetchall()
            known = [Key(**dict(row)) for row in rows]
            found = next((key for key in known if key.digest == digest), None)
            if found is not None:
                return found
            refused = [key for key in known if key.state == REFUSED]
            held = [key for key in known if key.state != REFUSED]
            if len(held) >= limits.keys_kept:
                raise QuotaError(409, f"{limits.keys_kept} files of keys are kept for you; delete one of them")
            if size > limits.keys_each or sum(key.size for key in held) + size > limits.keys_total:
                raise QuotaError(
                    413,
                    f"at most {limits.keys_each} bytes of keys in one file and {limits.keys_total} in all are kept for "
                    "you",
                )
            for key in refused[: max(0, len(known) + 1 - limits.keys_kept)]:
                db.execute("DELETE FROM keys WHERE client=? AND digest=?", (client, key.digest))
            new = Key(client, digest, size, UPLOADING, "", time.time())
            db.execute("INSERT INTO keys VALUES (?,?,?,?,?,?)", tuple(vars(new).values()))
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            path.touch(mode=0o600)
        return new

    def key(self, client: str, digest: str) -> Key | None:
        with self._transaction() as db:
            row = db.execute("SELECT * FROM keys WHERE client=? AND digest=?", (client, digest)).fetchone()
        return None if row is None else Key(**dict(row))

    def keys(self, client: str) -> list[Key]:
        with self._transaction() as db:
            rows = db.execute("SELECT * FROM keys WHERE client=? ORDER BY created", (client,)).fetchall()
        return [Key(**dict(row)) for row in rows]

    def set_key(self, client: str, digest: str, state: str, error: str = "") -> None:
        with self._transaction() as db:
            db.execute("UPDATE keys SET state=?, error=? WHERE client=? AND digest=?", (state, error, client, digest))
        if state == REFUSED:
            self.key_path(client, digest).unlink(missing_ok=True)

    def remove_key(self, client: str, digest: str) -> None:
        with self._transaction() as db:
            db.execute("DELETE FROM keys WHERE client=? AND digest=?", (client, digest))
        self.key_path(client, digest).unlink(missing_ok=True)

    def key_path(self, client: str, digest: str) -> Path:
        return self.folder / "clients" / client / "keys" / digest

    # -- jobs --

    def add_job(self, job: Job, inputs: Path, limits: Limits = NO_LIMITS) -> Job:
        """File a job with its inputs (which are moved); one of the same request is returned instead of a second one.

        QuotaError when there is no room for one more.
        """
        with self._transaction() as db:
            row = db.execute("SELECT * FROM jobs WHERE client=? AND request=?", (job.client, job.request)).fetchone()
            if row is not None:
                return Job(**dict(row))
            _check_room(db, job.client, limits)
            db.execute(f"INSERT INTO jobs VALUES ({','.join('?' * 12)})", tuple(vars(job).values()))
            folder = self.job_folder(job)
            folder.mkdir(mode=0o700, parents=True)
            inputs.replace(folder / "inputs")
        return job

    def check_room(self, client: str, limits: Limits) -> None:
        """QuotaError when there is no room for one more job, to be known before its inputs come."""
        with self._transaction() as db:
            _check_room(db, client, limits)

    def job(self, client: str, id: str) -> Job | None:
        with self._transaction() as db:
            row = db.execute("SELECT * FROM jobs WHERE client=? AND id=?", (client, id)).fetchone()
        return None if row is None else Job(**dict(row))

    def jobs(self, client: str) -> list[Job]:
        with self._transaction() as db:
            rows = db.execute("SELECT * FROM jobs WHERE client=? ORDER BY created", (client,)).fetchall()
        return [Job(**dict(row)) for row in rows]

    def waiting(self) -> list[Job]:
        """Queued jobs, oldest first."""
        with self._transaction() as db:
            rows = db.execute("SELECT * FROM jobs WHERE state=? ORDER BY created", (QUEUED,)).fetchall()
        return [Job(**dict(row)) for row in rows]

    def uses_key(self, client: str, digest: str) -> bool:
        """Whether an unfinished job needs these keys."""
        return any(j.key == digest and j.state not in (DONE, FAILED) for j in self.jobs(client))

    def counts(self) -> dict[str, int]:
        """Jobs by state."""
        with self._transaction() as db:
            rows = db.execute("SELECT state, COUNT(*) AS n FROM jobs GROUP BY state").fetchall()
        return {row["state"]: row["n"] for row in rows}

    def begin_job(self, id: str) -> bool:
        """Whether it is there and waits; then it runs."""
        with self._transaction() as db:
            begun = db.execute(
                "UPDATE jobs SET state=?, started=?, attempts=attempts+1 WHERE id=? AND state=?",
                (RUNNING, time.time(), id, QUEUED),
            )
            return begun.rowcount == 1

    def end_job(self, job: Job, error: str = "") -> None:
        """Done, or failed if there is an error. The inputs are not needed any more."""
        with self._transaction() as db:
            db.execute(
                "UPDATE jobs SET state=?, error=?, finished=? WHERE id=?",
                (FAILED if error else DONE, error, time.time(), job.id),
            )
        _clear(self.job_folder(job), ("outputs",))

    def requeue_job(self, id: str) -> None:
        with self._transaction() as db:
            db.execute("UPDATE jobs SET state=? WHERE id=? AND state IN (?, ?)", (QUEUED, id, RUNNING, STALLED))

    def stall_job(self, id: str, stalled: bool) -> None:
        """A running job waits for the cluster, or goes on."""
        before, after = (RUNNING, STALLED) if stalled else (STALLED, RUNNING)
        with self._transaction() as db:
            db.execute("UPDATE jobs SET state=? WHERE id=? AND state=?", (after, id, before))

    def ask_job(self, job: Job) -> None:
        """It waits for the client, as often as its program asks: earlier attempts do not count any more."""
        with self._transaction() as db:
            db.execute("UPDATE jobs SET state=?, attempts=0 WHERE id=? AND state=?", (WAITING, job.id, RUNNING))

    def expire_questions(self, before: float) -> list[Job]:
        """Jobs that have waited for their clients since before that time, in seconds since 1970: they fail now."""
        with self._transaction() as db:
            rows = db.execute("SELECT * FROM jobs WHERE state=? AND started<?", (WAITING, before)).fetchall()
            db.execute(
                "UPDATE jobs SET state=?, error=?, finished=? WHERE state=? AND started<?",
                (FAILED, "its client did not answer in time; submit it again", time.time(), WAITING, before),
            )
        expired = [Job(**dict(row)) for row in rows]
        for job in expired:
            _clear(self.job_folder(job), ())
        return expired

    def answer_job(self, job: Job, answer: Path) -> bool:
        """The client has answered, by a file (which is moved): the job waits for a worker. Whether it was waiting."""
        with self._transaction() as db:
            (state,) = db.execute("SELECT state FROM jobs WHERE id=?", (job.id,)).fetchone() or ("",)
            if state != WAITING:
                return False
            answer.replace(self.job_folder(job) / "answer")
            db.execute("UPDATE jobs SET state=? WHERE id=?", (QUEUED, job.id))
            return True

    def remove_job(self, job: Job) -> None:
        with self._transaction() as db:
            db.execute("DELETE FROM jobs WHERE id=?", (job.id,))
        shutil.rmtree(self.job_folder(job), ignore_errors=True)

    def job_folder(self, job: Job) -> Path:
        return self.folder / "clients" / job.client / "jobs" / job.id

    def incoming(self, client: str) -> Path:
        """A folder for what is being received."""
        path = self.folder / "clients" / client / "incoming"
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return path

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")


def no_room(error: BaseException) -> bool:
    """Whether an error of files or of the database says that the disk is full."""
    if isinstance(error, sqlite3.OperationalError):
        return "full" in str(error) or "disk I/O" in str(error)
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _check_room(db: sqlite3.Connection, client: str, limits: Limits) -> None:
    counted = "SELECT COUNT(*) FROM jobs WHERE "
    (waiting,) = db.execute(f"{counted} state=?", (QUEUED,)).fetchone()
    # those that wait for the client keep their files, too
    (own,) = db.execute(f"{counted} state IN (?, ?) AND client=?", (QUEUED, WAITING, client)).fetchone()
    (kept,) = db.execute(f"{counted} client=?", (client,)).fetchone()
    if own >= limits.queue_each:
        raise QuotaError(429, f"{limits.queue_each} of your jobs wait already")
    if waiting >= limits.queue:
        raise QuotaError(503, "the queue is full")
    if kept >= limits.jobs_kept:
        raise QuotaError(409, f"{limits.jobs_kept} of your jobs are kept; delete those whose results you have")


def _clear(folder: Path, keep: tuple[str, ...]) -> None:
    """Remove files but those of these names."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.name not in keep:
            path.unlink(missing_ok=True)
