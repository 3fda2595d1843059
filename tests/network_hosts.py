"""Hosts of their own for tests of clusters, on one machine: network namespaces with names and files of their own."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import pytest

# What a command on a host begins with: its name, a folder that it sees empty, then the command.
_ENTER = 'hostname "$0" && mount -t tmpfs tmpfs "$1" && shift && exec "$@"'
# Names and addresses of a set of hosts have its number in them; whoever has the lock on the file of that name has it.
_NUMBERS = range(256)
_LOCKS = Path(tempfile.gettempdir()) / f"glyphc-test-hosts-{os.getuid()}"


class Hosts:
    """Host 1 has a switch, which the others and this process are connected to; each has one address. All see the files
    of this machine but for ``private``, which is empty at first, and each one's own: folders for temporary files.

    Skips the test, and says why, where such hosts cannot be made. A context manager, which first removes what killed
    processes have left.
    """

    def __init__(self, count: int, private: Path) -> None:
        self.count, self.private = count, private
        self._number = -1
        self._lock: TextIO | None = None

    def __enter__(self) -> Hosts:
        missing = [name for name in ("ip", "unshare", "mount", "hostname") if shutil.which(name) is None]
        if missing or os.getuid() != 0:
            pytest.skip(f"hosts need {missing[0] if missing else 'root'}: these are network namespaces")
        for left in sorted({int(m[1]) for m in re.finditer(r"^glyphc-(\d+)-", _said("ip", "netns", "list"), re.M)}):
            if lock := _locked(left):
                with lock:
                    _remove(left)
        self._number, self._lock = next((n, lock) for n in _NUMBERS if (lock := _locked(n)))
        try:
            self._make()
            for number in range(1, self.count + 1):
                _run(*self.command(number), "true")
        except subprocess.CalledProcessError as e:
            self.close()
            pytest.skip(f"no network namespaces here: {' '.join(e.cmd[:6])}: {e.stderr.decode().strip()[-200:]}")
        return self

    def _make(self) -> None:
        hub = self._name(1)
        for number in range(1, self.count + 1):
            _run("ip", "netns", "add", self._name(number))
            self._ip(number, "link", "set", "lo", "up")
        self._ip(1, "link", "add", "hub", "type", "bridge")
        self._ip(1, "address", "add", f"{self.address(1)}/24", "dev", "hub")
        self._ip(1, "link", "set", "hub", "up")
        for number in (0, *range(2, self.count + 1)):
            cable = f"glyphc{self._number}-{number}"
            _run("ip", "link", "add", cable, "type", "veth", "peer", "name", f"port{number}", "netns", hub)
            if number:
                _run("ip", "link", "set", cable, "netns", self._name(number))
            self._ip(number, "address", "add", f"{self.address(number)}/24", "dev", cable)
            self._ip(number, "link", "set", cable, "up")
            self.plug(number)

    def _name(self, number: int) -> str:
        """Of a host's namespace."""
        return f"glyphc-{self._number}-{number}"

    def _ip(self, number: int, *words: str) -> None:
        """On a host, or here: 0."""
        _run("ip", *(("-n", self._name(number)) if number else ()), *words)

    def plug(self, number: int, into: bool = True) -> None:
        """Connect a host with the switch, or pull its cable."""
        port = f"port{number}"
        self._ip(1, "link", "set", port, *(("master", "hub", "up") if into else ("down",)))

    def address(self, number: int) -> str:
        """Of a host; 0: of this process."""
        # for tests between networks (RFC 2544)
        return f"198.18.{self._number}.{number or 254}"

    def command(self, number: int) -> list[str]:
        """What a command on that host begins with."""
        enter = ("ip", "netns", "exec", self._name(number), "unshare", "--uts", "--mount", "sh", "-c", _ENTER)
        return [*enter, f"host{number}", str(self.private)]

    def close(self) -> None:
        _remove(self._number)
        assert self._lock is not None
        self._lock.close()

    def __exit__(self, *_: object) -> None:
        self.close()


def _locked(number: int) -> TextIO | None:
    """That nobody else has this number as long as the file is open, which it is not beyond its process; None where
    somebody has it."""
    _LOCKS.mkdir(exist_ok=True)
    file = open(_LOCKS / str(number), "w")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


def _remove(number: int) -> None:
    """Hosts with this number, with the processes on them. Cables go with what they are connected to."""
    for name in re.findall(rf"^glyphc-{number}-\d+", _said("ip", "netns", "list"), re.M):
        for process in _said("ip", "netns", "pids", name).split():
            with suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def _said(*command: str) -> str:
    return subprocess.run(command, capture_output=True, check=False, text=True).stdout


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
