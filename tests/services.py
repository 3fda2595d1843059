"""A real service over loopback, in a process of its own, for tests."""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from glyphc.exchange.artifacts import ServerProgram
from glyphc.service.__main__ import Listen, to_json
from glyphc.service.client import Client
from glyphc.service.settings import Limits, Settings, new_token
from tests.roles import environment

_READY_SECONDS = 60.0


@dataclass
class Running:
    """A started service. url: its address; tokens: by client."""

    url: str
    process: subprocess.Popen[str]
    tokens: dict[str, str]

    def client(self, name: str = "alice") -> Client:
        return Client(self.url, self.tokens[name])

    def raw(self, name: str = "alice") -> httpx.Client:
        """Requests without the retries of the client."""
        return httpx.Client(base_url=self.url, headers={"Authorization": f"Bearer {self.tokens[name]}"}, timeout=60.0)

    def kill(self) -> None:
        """As kill -9 does; its workers end with it."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Place:
    """Folders of a service, which outlives its processes."""

    def __init__(self, folder: Path, half: ServerProgram | None, *options: str) -> None:
        """half: the program that is served; without one, ``options`` say what is."""
        self.folder, self.options = folder, options
        self.data = folder / "data"
        self.count = 0
        folder.mkdir(parents=True, exist_ok=True)
        self.programs: Path | None = None
        if half is not None:
            self.programs = folder / "programs"
            self.programs.mkdir()
            half.save(self.programs / "tumours.server")
        self.tokens = {name: new_token(folder / "tokens", name) for name in ("alice", "bob")}

    def start(self, *options: str, limits: Limits | None = None, disk: int | None = None) -> Running:
        """Start 'glyphc serve' with these options; limits: those that have no option. disk: bytes that a file may have,
        beyond which writing fails."""

        def limit_files() -> None:
            if disk is not None:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (disk, disk))

        arguments = ["serve", "--data", self.data, *([] if self.programs is None else ["--programs", self.programs])]
        arguments += ["--tokens", self.folder / "tokens", "--listen", "127.0.0.1:0", *self.options, *options]
        log = open(self.folder / "log", "a")  # noqa: SIM115
        at = log.tell()
        command = ["glyphc", *map(str, arguments)]
        if limits is not None:
            settings = Settings(self.programs, self.data, self.folder / "tokens", insecure=True, limits=limits)
            command = ["glyphc.service", to_json(settings, Listen("127.0.0.1", 0, "", ""))]
        process = subprocess.Popen(
            [sys.executable, "-m", *command], env=environment(), stderr=log, text=True, preexec_fn=limit_files
        )
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            found = re.search(r"serving on (\S+)", (self.folder / "log").read_text()[at:])
            if found:
                return Running(found[1], process, self.tokens)
            time.sleep(0.05)
        process.kill()
        raise AssertionError((self.folder / "log").read_text())

    @contextlib.contextmanager
    def running_anew(self, *options: str, limits: Limits | None = None, disk: int | None = None) -> Iterator[Running]:
        """A service of the same programs and tokens without any keys or jobs."""
        self.count += 1
        data, self.data = self.data, self.folder / f"data-{self.count}"
        try:
            with self.running(*options, limits=limits, disk=disk) as service:
                yield service
        finally:
            self.data = data

    @contextlib.contextmanager
    def running(self, *options: str, limits: Limits | None = None, disk: int | None = None) -> Iterator[Running]:
        service = self.start(*options, limits=limits, disk=disk)
        try:
            yield service
        finally:
            service.process.terminate()
            try:
                service.process.wait(30)
            except subprocess.TimeoutExpired:
                service.process.kill()
                raise


def certificate(folder: Path) -> tuple[Path, Path]:
    """A self-signed certificate for this machine, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.timezone.utc)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    signed = builder.add_extension(address, critical=False).sign(key, hashes.SHA256())
    chain, secret = folder / "chain.pem", folder / "key.pem"
    chain.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    secret.write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    return chain, secret


def certificates(folder: Path) -> Path:
    """The folder, with what '--cluster-tls' takes: ca.pem, cert.pem and key.pem."""
    chain, _ = certificate(folder)
    for name in ("ca", "cert"):
        (folder / f"{name}.pem").write_bytes(chain.read_bytes())
    return folder


def children(pid: int) -> list[int]:
    """Processes that a process has started."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat") as stat:
                if int(stat.read().rpartition(")")[2].split()[1]) == pid:
                    found.append(int(entry))
    return found
