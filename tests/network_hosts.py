"""Hosts of their own for tests of clusters, on one machine: network namespaces with names and files of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

# What a command on a host begins with: its name, a folder that it sees empty, then the command.
_ENTER = 'hostname "$0" && mount -t tmpfs tmpfs "$1" && shift && exec "$@"'


class Hosts:
    """Host 1 has a switch, which the others and this process are connected to; each has one address. All see the files
    of this machine but for ``private``, which is empty at first, and each one's own: folders for temporary files.

    Skips the test, and says why, where such hosts cannot be made. A context manager.
    """

    def __init__(self, count: int, private: Path) -> None:
        self.count, self.private = count, private
        self._name = f"g{os.getpid():x}"
        # for tests between networks (RFC 2544)
        self._network = f"198.18.{os.getpid() % 256}"

    def __enter__(self) -> Hosts:
        missing = [name for name in ("ip", "unshare", "mount", "hostname") if shutil.which(name) is None]
        if missing or os.getuid() != 0:
            pytest.skip(f"hosts need {missing[0] if missing else 'root'}: these are network namespaces")
        try:
            self._make()
            for number in range(1, self.count + 1):
                _run(*self.command(number), "true")
        except subprocess.CalledProcessError as e:
            self.close()
            pytest.skip(f"no network namespaces here: {' '.join(e.cmd[:6])}: {e.stderr.decode().strip()[-200:]}")
        return self

    def _make(self) -> None:
        hub = f"{self._name}-1"
        for number in range(1, self.count + 1):
            _run("ip", "netns", "add", f"{self._name}-{number}")
            self._ip(number, "link", "set", "lo", "up")
        self._ip(1, "link", "add", "hub", "type", "bridge")
        self._ip(1, "address", "add", f"{self.address(1)}/24", "dev", "hub")
        self._ip(1, "link", "set", "hub", "up")
        for number in (0, *range(2, self.count + 1)):
            cable = f"{self._name}c{number}"
            _run("ip", "link", "add", cable, "type", "veth", "peer", "name", f"port{number}", "netns", hub)
            if number:
                _run("ip", "link", "set", cable, "netns", f"{self._name}-{number}")
            self._ip(number, "address", "add", f"{self.address(number)}/24", "dev", cable)
            self._ip(number, "link", "set", cable, "up")
            self.plug(number)

    def _ip(self, number: int, *words: str) -> None:
        """On a host, or here: 0."""
        _run("ip", *(("-n", f"{self._name}-{number}") if number else ()), *words)

    def plug(self, number: int, into: bool = True) -> None:
        """Connect a host with the switch, or pull its cable."""
        port = f"port{number}"
        self._ip(1, "link", "set", port, *(("master", "hub", "up") if into else ("down",)))

    def address(self, number: int) -> str:
        """Of a host; 0: of this process."""
        return f"{self._network}.{number or 254}"

    def command(self, number: int) -> list[str]:
        """What a command on that host begins with."""
        enter = ("ip", "netns", "exec", f"{self._name}-{number}", "unshare", "--uts", "--mount", "sh", "-c", _ENTER)
        return [*enter, f"host{number}", str(self.private)]

    def close(self) -> None:
        for number in range(1, self.count + 1):
            # cables go with what they are connected to
            subprocess.run(["ip", "netns", "delete", f"{self._name}-{number}"], capture_output=True, check=False)

    def __exit__(self, *_: object) -> None:
        self.close()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
