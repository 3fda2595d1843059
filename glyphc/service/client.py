"""The data owner's end of the service: uploads keys, submits encrypted inputs, fetches and decrypts outputs."""

from __future__ import annotations

import hashlib
import os
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import numpy.typing as npt

from glyphc.errors import ArtifactError, GlyphcError
from glyphc.exchange.answers import answer
from glyphc.exchange.artifacts import Specification
from glyphc.exchange.client import Account
from glyphc.files import write_atomically
from glyphc.progress import Reporter, Silent
from glyphc.storage.container import Reader
from glyphc.storage.headers import KeysHeader

F64 = npt.NDArray[np.floating[Any]]
_CHUNK = 16 << 20
# Between two attempts, in seconds: the first pause, and the longest.
_PAUSES = (0.5, 8.0)
# Answers after which a request is made again.
_BUSY = (408, 429, 502, 503, 504)
_WAIT_SECONDS = 20.0


class ServiceError(GlyphcError):
    """The service cannot be reached, or refuses a request. status: of its answer, 0 without one."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class JobStatus:
    """What the service says of a job. state: queued, running, stalled (the service's cluster is away), waiting (for
    this client), done or failed; share: of the current stage, 0 to 1."""

    id: str
    request: str
    state: str
    error: str
    what: str
    share: float
    attempts: int


class Client:
    """A service at ``url``, for the owner of ``token``.

    Requests that fail on the way are made again with growing pauses for ``patience`` seconds, and so are those that the
    service is too busy for (it says when); uploads go on where they stopped. ca: a file of certificates to trust.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        ca: str | os.PathLike[str] | None = None,
        timeout: float = 60.0,
        patience: float = 60.0,
    ) -> None:
        # a token in the clear is anybody's
        address = httpx.URL(url)
        if address.scheme not in ("http", "https") or not address.host:
            raise ServiceError(f"{url!r} is not the address of a service, such as https://example.org:8440")
        if address.scheme == "http" and address.host not in ("127.0.0.1", "localhost", "::1"):
            raise ServiceError(f"{url!r} would send the token in the clear; use https")
        try:
            verify = True if ca is None else ssl.create_default_context(cafile=ca)
        except OSError as e:
            raise ServiceError(f"cannot read certificates from {os.fspath(ca or '')!r}: {e}") from None
        self._patience = patience
        self._http = httpx.Client(
            base_url=address, verify=verify, timeout=timeout, headers={"Authorization": f"Bearer {token}"}
        )

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- programs --

    def programs(self) -> dict[str, str]:
        """Names of the programs by fingerprint."""
        return {p["program"]: p["name"] for p in self._ask("GET", "/v1/programs").json()}

    def specification(self, program: str) -> Specification:
        """The client specification of a program, by fingerprint or by name. 'glyphc keygen' checks its security."""
        known = self.programs()
        matches = [f for f, name in known.items() if program in (f, name)]
        if len(matches) != 1:
            names = ", ".join(known.values())
            raise ServiceError(f"no single program {program!r} is served there; there are: {names}")
        data = self._ask("GET", f"/v1/programs/{matches[0]}/client").content
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "client.spec"
            path.write_bytes(data)
            spec = Specification.load(path)
        if spec.program != matches[0]:
            raise ServiceError("the service sent the specification of another program than it was asked for")
        return spec

    # -- keys --

    def has_keys(self, digest: str) -> bool:
        """Whether the service holds these evaluation keys, wholly and checked."""
        answer = self._ask("GET", f"/v1/keys/{digest}", accept=(404,))
        return answer.status_code == 200 and bool(answer.json()["state"] == "ready")

    def upload_keys(self, path: Path, reporter: Reporter | None = None) -> str:
        """Upload a file of evaluation keys, going on with an earlier attempt; returns the keys' digest."""
        reporter = reporter or Silent()
        with Reader(path, KeysHeader) as reader:
            digest = reader.digest
        size = path.stat().st_size
        state = self._ask("POST", "/v1/keys", json={"digest": digest, "size": size}).json()
        reporter.stage("upload keys", size)
        reporter.advance(state["offset"], "present")
        with open(path, "rb") as file:
            while state["state"] == "uploading":
                offset = state["offset"]
                file.seek(offset)
                chunk = file.read(_CHUNK)
                # an empty chunk behind the last byte has a check done that was interrupted
                if not chunk and offset < size:
                    raise ArtifactError(f"{os.fspath(path)!r} became shorter while it was uploaded")
                query = {"offset": offset, "sha256": hashlib.sha256(chunk).hexdigest()}
                # a lost answer leaves the chunk there: then the service says where to go on
                answer = self._ask("PATCH", f"/v1/keys/{digest}", params=query, content=chunk, accept=(409,))
                state = self._ask("GET", f"/v1/keys/{digest}").json() if answer.status_code == 409 else answer.json()
                reporter.advance(max(0, state["offset"] - offset), "sent")
        while state["state"] == "checking":
            time.sleep(0.5)
            state = self._ask("GET", f"/v1/keys/{digest}").json()
        if state["state"] != "ready":
            raise ServiceError(f"the service refuses the keys: {state['error']}")
        return digest

    # -- jobs --

    def submit(self, inputs: Path) -> JobStatus:
        """Submit a file of encrypted inputs; the same file again is the same job."""
        return _status(self._ask("POST", "/v1/jobs", body=inputs).json())

    def status(self, job: str, wait: float = 0.0) -> JobStatus:
        """A job's state; with ``wait`` (seconds, up to 30) when it changes."""
        return _status(self._ask("GET", f"/v1/jobs/{job}", params={"wait": wait}).json())

    def wait(self, job: str, observe: Callable[[JobStatus], None] = lambda status: None) -> JobStatus:
        """Wait until a job is done, or asks its client something; ServiceError if it fails."""
        while True:
            status = self.status(job, _WAIT_SECONDS)
            observe(status)
            if status.state == "failed":
                raise ServiceError(f"the evaluation failed: {status.error}")
            if status.state in ("done", "waiting"):
                return status

    def fetch(self, job: str, output: Path) -> None:
        """Write a done job's encrypted outputs to a file."""
        write_atomically(output, self._ask("GET", f"/v1/jobs/{job}/result").content)

    def question(self, job: str, output: Path) -> None:
        """Write what a waiting job asks to a file."""
        write_atomically(output, self._ask("GET", f"/v1/jobs/{job}/question").content)

    def answer(self, job: str, answer: Path) -> JobStatus:
        """Send the answer to what a waiting job asks (``glyphc.exchange.answers``)."""
        return _status(self._ask("PUT", f"/v1/jobs/{job}/answer", body=answer).json())

    def delete(self, job: str) -> None:
        """Stop a job, or forget it and its results."""
        self._ask("DELETE", f"/v1/jobs/{job}")

    def run(
        self,
        account: Account,
        x: npt.ArrayLike | Mapping[str, npt.ArrayLike],
        keys: Path | None = None,
        reporter: Reporter | None = None,
    ) -> dict[str, F64]:
        """Encrypt samples, have them evaluated, decrypt: outputs by name, shape (samples, *shape).

        keys: the file of evaluation keys, to upload if the service does not have them. Where the program asks its
        client on the way, this one answers, and sees what it is asked (docs/security.md).
        """
        reporter = reporter or Silent()
        if not self.has_keys(account.secret.key):
            if keys is None:
                raise ServiceError(
                    "the service has no evaluation keys of this client; give their file, to have them uploaded"
                )
            if self.upload_keys(keys, reporter) != account.secret.key:
                raise ArtifactError(f"{os.fspath(keys)!r} does not belong to the secret key of this client")
        with tempfile.TemporaryDirectory() as folder:
            inputs, outputs = Path(folder) / "inputs", Path(folder) / "outputs"
            digest = account.encrypt(x, inputs, reporter)
            job = self.submit(inputs)
            reporter.stage("evaluate", 1.0)
            follower = _Follower(reporter)
            while self.wait(job.id, follower).state == "waiting":
                self.question(job.id, Path(folder) / "question")
                answer(account, Path(folder) / "question", Path(folder) / "answer")
                self.answer(job.id, Path(folder) / "answer")
            self.fetch(job.id, outputs)
            self.delete(job.id)
            reporter.stage("decrypt", 1.0)
            return account.decrypt(outputs, digest)

    def ask(self, request: Path, answer: Path, reporter: Reporter | None = None) -> None:
        """Have a request to weights that were trained encrypted answered, from file to file; see
        ``glyphc.exchange.training_predict.predict``."""
        reporter = reporter or Silent()
        job = self.submit(request)
        reporter.stage("evaluate", 1.0)
        self.wait(job.id, _Follower(reporter))
        self.fetch(job.id, answer)
        self.delete(job.id)

    # -- requests --

    def _ask(self, method: str, path: str, accept: tuple[int, ...] = (), body: Path | None = None, **more: Any) -> Any:
        """An answer, after as many attempts as are reasonable. ServiceError with what the service says otherwise."""
        pause, longest = _PAUSES
        # from the first failure on: what takes long and succeeds is not at the expense of what comes after
        end: float | None = None
        while True:
            if body is not None:
                more["content"] = _blocks(body)  # from the beginning each time
            wait = pause
            try:
                answer = self._http.request(method, path, **more)
            except httpx.TransportError as e:
                failure = ServiceError(f"the service at {self._http.base_url} cannot be reached: {e}")
            else:
                if answer.is_success or answer.status_code in accept:
                    return answer
                failure = ServiceError(f"the service says: {_detail(answer)}", answer.status_code)
                if answer.status_code not in _BUSY:
                    raise failure
                wait = _retry_after(answer, pause)
            end = time.monotonic() + self._patience if end is None else end
            if time.monotonic() + wait > end:
                raise failure from None
            time.sleep(wait)
            pause = min(2 * pause, longest)


def _retry_after(answer: httpx.Response, otherwise: float) -> float:
    """Seconds that a busy service asks for; ``otherwise`` where it says nothing, or a date."""
    try:
        return max(0.0, float(answer.headers["Retry-After"]))
    except (KeyError, ValueError):
        return otherwise


class _Follower:
    """Reports a job's progress."""

    def __init__(self, reporter: Reporter) -> None:
        self._reporter, self._share = reporter, 0.0

    def __call__(self, status: JobStatus) -> None:
        self._reporter.advance(max(0.0, status.share - self._share), status.what or status.state)
        self._share = status.share


def _status(tree: dict[str, Any]) -> JobStatus:
    return JobStatus(**{name: tree[name] for name in JobStatus.__dataclass_fields__})


def _detail(answer: httpx.Response) -> str:
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return f"status {answer.status_code}"
    return f"{detail} (status {answer.status_code})"


def _blocks(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            yield block
