"""Configuration of the service, and its tokens."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import time
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from glyphc.errors import ArtifactError, GlyphcError
from glyphc.exchange.artifacts import PROGRAM_SUFFIX, ServerProgram
from glyphc.files import write_atomically

CLIENT_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_TOKEN_LINE = re.compile(r"([a-z0-9][a-z0-9_-]{0,63}) ([0-9a-f]{64}) (\S+)")
_MOMENT = "%Y-%m-%dT%H:%M:%SZ"
# How long a token is valid unless it is said.
TOKEN_DAYS = 90.0
log = logging.getLogger("glyphc.service")


class ServiceError(GlyphcError):
    """The service cannot start as it was asked to, or answered a client with an error."""


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes, times in seconds.

    Of one client: keys_total, keys_each and keys_kept (files of keys, and how many), jobs_kept, queue_each (waiting
    jobs), bodies_each (uploads at once). queue: waiting jobs of all. checks: files checked at once, of different
    clients. connections: at most; connections_each: of one client, or of one address without a token. head_seconds: for
    a request's head, and for small bodies; receive_seconds: for an upload in which nothing arrives, or less than
    receive_rate bytes in a second. answer_seconds: for a client's answer, from when the evaluation that asks began.
    drain_seconds: that running jobs have when the service is asked to end. deaths: of workers that a job has had while
    one service ran, after which it is given up.
    """

    keys_total: int = 32 << 30
    keys_each: int = 16 << 30
    keys_kept: int = 16
    chunk: int = 64 << 20
    inputs: int = 4 << 30
    jobs_kept: int = 1000
    queue: int = 64
    queue_each: int = 16
    bodies_each: int = 4
    checks: int = 2
    connections: int = 512
    connections_each: int = 32
    job_seconds: float = 6 * 3600.0
    head_seconds: float = 10.0
    receive_seconds: float = 60.0
    receive_rate: int = 8 << 10
    idle_seconds: float = 300.0
    answer_seconds: float = 7 * 86400.0
    drain_seconds: float = 0.0
    deaths: int = 10


@dataclass(frozen=True)
class Settings:
    """Where programs, data and tokens are; how many evaluations run at once; whether outputs are flooded.

    json_logs: each line of the log is a JSON object. cluster: the address of a Dask scheduler whose workers share the
    passes of an evaluation, cluster_tls: a folder of certificates for it; or nothing. trained: a folder of clients'
    folders of training servers' folders, whose weights answer requests. Without programs or trained, there are none.
    """

    programs: Path | None
    data: Path
    tokens: Path
    workers: int = 1
    sanitize: int = 0
    insecure: bool = False
    limits: Limits = Limits()
    json_logs: bool = False
    cluster: str = ""
    cluster_tls: str = ""
    trained: Path | None = None


def load_programs(settings: Settings) -> dict[str, tuple[Path, ServerProgram]]:
    """The programs of the folder by fingerprint; ServiceError when there is none, or one that protects nothing."""
    if settings.programs is None:
        return {}
    if not settings.programs.is_dir():
        raise ServiceError(f"there is no folder {os.fspath(settings.programs)!r} of programs")
    found: dict[str, tuple[Path, ServerProgram]] = {}
    for path in sorted(settings.programs.iterdir()):
        if path.suffix == ".glyphc":
            raise ServiceError(
                f"{os.fspath(path)!r} is a whole compiled program, with names and data that are no server's business: "
                "put its half there, which 'glyphc split PROGRAM.glyphc --server FILE.server' writes"
            )
        if path.suffix == PROGRAM_SUFFIX:
            program = ServerProgram.load(path)
            if not program.schedule.parameters.secure and not settings.insecure:
                raise ServiceError(
                    f"{os.fspath(path)!r} was compiled with a small ring, for tests only, and protects nothing; remove "
                    "it, or say --insecure"
                )
            found[program.fingerprint] = (path, program)
    if not found and settings.trained is None:
        raise ServiceError(
            f"there is no program in {os.fspath(settings.programs)!r}: put .server files there, which 'glyphc split' "
            "makes from compiled programs"
        )
    return found


# -- tokens: a file of lines "client sha256(token) end-of-validity" --


class TokenError(Exception):
    """No token, an unknown one, or one that has expired."""


@dataclass(frozen=True)
class Token:
    """Whose token it is; expires: seconds since 1970."""

    client: str
    expires: float


def token_hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def load_tokens(path: Path) -> dict[str, Token]:
    """Tokens by their hashes; ServiceError when the file cannot be read, or has no tokens."""
    return _parse_tokens(path, _read_tokens(path))


def _read_tokens(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise ServiceError(
            f"cannot read the tokens from {os.fspath(path)!r} ({e.strerror}); make one with 'glyphc token'"
        ) from None


def _parse_tokens(path: Path, content: bytes) -> dict[str, Token]:
    found: dict[str, Token] = {}
    for number, line in enumerate(content.decode(errors="replace").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _TOKEN_LINE.fullmatch(line.strip())
        expires = None if match is None else _moment(match[3])
        if match is None or expires is None:
            raise ServiceError(
                f"line {number} of {os.fspath(path)!r} is not 'client sha256-of-token end-of-validity', as 'glyphc "
                "token' writes it"
            )
        found[match[2]] = Token(match[1], expires)
    if not found:
        raise ServiceError(f"there is no token in {os.fspath(path)!r}; make one with 'glyphc token'")
    return found


def _moment(text: str) -> float | None:
    try:
        return datetime.strptime(text, _MOMENT).replace(tzinfo=timezone.utc).timestamp()
    except ValueError:
        return None


class Tokens:
    """The tokens of a file, as it stands at the moment of each question.

    So a client is added or shut out without a restart, and with the answer to the next request. A file that is gone,
    empty or malformed lets nobody in: whoever took a token out of it may have made a mistake with the rest.
    """

    def __init__(self, path: Path) -> None:
        """ServiceError when there are no tokens to begin with."""
        self._path = path
        self._content: bytes | None = None
        self._tokens: dict[str, Token] = {}
        self._problem = ""
        load_tokens(path)

    def client(self, token: str) -> str:
        """Whose token it is; TokenError if nobody's."""
        found = self._current().get(token_hash(token))
        if found is None:
            raise TokenError("a valid token is needed")
        if found.expires <= time.time():
            raise TokenError("the token has expired; the service's operator makes new ones")
        return found.client

    def _current(self) -> dict[str, Token]:
        try:
            content = _read_tokens(self._path)
            # times of files are too coarse to tell whether it has changed
            if content != self._content:
                self._content, self._tokens = content, {}
                self._tokens = _parse_tokens(self._path, content)
                self._report("")
        except ServiceError as e:
            self._content, self._tokens = None, {}
            self._report(str(e))
        return self._tokens

    def _report(self, problem: str) -> None:
        """Once for each change."""
        if problem != self._problem:
            self._problem = problem
            log.error("%s. Nobody is let in", problem) if problem else log.info("the tokens are usable again")


def new_token(path: Path, client: str, days: float = TOKEN_DAYS) -> str:
    """A fresh token for a client, valid for so many days; only its hash is added to the file."""
    if not CLIENT_NAME.fullmatch(client):
        raise ServiceError(f"{client!r} cannot name a client: small letters, digits, - and _, at most 64")
    token = secrets.token_urlsafe(32)
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else ""
    except (OSError, UnicodeDecodeError) as e:
        raise ArtifactError(f"cannot read {os.fspath(path)!r}: {e}") from None
    before += "\n" if before and not before.endswith("\n") else ""
    expires = datetime.fromtimestamp(time.time() + days * 86400, timezone.utc).strftime(_MOMENT)
    write_atomically(path, f"{before}{client} {token_hash(token)} {expires}\n".encode())
    return token
