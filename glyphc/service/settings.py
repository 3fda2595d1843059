"""Configuration of the service, and its tokens."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from glyphc.errors import ArtifactError, GlyphcError
from glyphc.files import write_atomically
from glyphc.roles.artifacts import PROGRAM_SUFFIX, ServerProgram

CLIENT_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_TOKEN_LINE = re.compile(r"([a-z0-9][a-z0-9_-]{0,63}) ([0-9a-f]{64})")


class ServiceError(GlyphcError):
    """The service cannot start as it was asked to, or answered a client with an error."""


@dataclass(frozen=True)
class Limits:
    """Sizes in bytes, times in seconds. keys_total: of one client. queue: waiting jobs, of all and of one client."""

    keys_total: int = 32 << 30
    keys_each: int = 16 << 30
    chunk: int = 64 << 20
    inputs: int = 4 << 30
    jobs_kept: int = 1000
    queue: int = 64
    queue_each: int = 16
    job_seconds: float = 6 * 3600.0
    receive_seconds: float = 60.0
    idle_seconds: float = 300.0


@dataclass(frozen=True)
class Settings:
    """Where programs, data and tokens are; how many evaluations run at once; whether outputs are flooded."""

    programs: Path
    data: Path
    tokens: Path
    workers: int = 1
    sanitize: int = 0
    insecure: bool = False
    limits: Limits = Limits()


def load_programs(settings: Settings) -> dict[str, tuple[Path, ServerProgram]]:
    """The programs of the folder by fingerprint; ServiceError when there is none, or one that protects nothing."""
    if not settings.programs.is_dir():
        raise ServiceError(f"there is no folder {os.fspath(settings.programs)!r} of programs")
    found: dict[str, tuple[Path, ServerProgram]] = {}
    for path in sorted(settings.programs.iterdir()):
        if path.suffix in (".glyphc", PROGRAM_SUFFIX):
            program = ServerProgram.load(path)
            if not program.schedule.parameters.secure and not settings.insecure:
                raise ServiceError(
                    f"{os.fspath(path)!r} was compiled with a small ring, for tests only, and protects nothing; remove "
                    "it, or say --insecure"
                )
            found[program.fingerprint] = (path, program)
    if not found:
        raise ServiceError(
            f"there is no program in {os.fspath(settings.programs)!r}: put .glyphc or .server files there"
        )
    return found


# -- tokens: a file of lines "client sha256(token)" --


def token_hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def load_tokens(path: Path) -> dict[str, str]:
    """Client names by the hashes of their tokens."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise ServiceError(
            f"cannot read the tokens from {os.fspath(path)!r} ({e}); make one with 'glyphc token'"
        ) from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _TOKEN_LINE.fullmatch(line.strip())
        if match is None:
            raise ServiceError(f"line {number} of {os.fspath(path)!r} is not 'client sha256-of-token'")
        found[match[2]] = match[1]
    if not found:
        raise ServiceError(f"there is no token in {os.fspath(path)!r}; make one with 'glyphc token'")
    return found


class Tokens:
    """The tokens of a file, read again when it changes: a client is added or shut out without a restart."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._state()
        self._clients = load_tokens(path)

    def client(self, token: str) -> str | None:
        """Whose token it is."""
        stamp = self._state()
        if stamp != self._stamp:
            # an unreadable file shuts nobody in or out
            with contextlib.suppress(ServiceError):
                self._clients = load_tokens(self._path)
            self._stamp = stamp
        return self._clients.get(token_hash(token))

    def _state(self) -> tuple[int, int]:
        try:
            stat = self._path.stat()
        except OSError:
            return 0, 0
        return stat.st_mtime_ns, stat.st_size


def new_token(path: Path, client: str) -> str:
    """A fresh token for a client; only its hash is added to the file."""
    if not CLIENT_NAME.fullmatch(client):
        raise ServiceError(f"{client!r} cannot name a client: small letters, digits, - and _, at most 64")
    token = secrets.token_urlsafe(32)
    try:
        before = path.read_text(encoding="utf-8") if path.exists() else ""
    except OSError as e:
        raise ArtifactError(f"cannot read {os.fspath(path)!r}: {e.strerror}") from None
    write_atomically(path, f"{before}{client} {token_hash(token)}\n".encode())
    return token
