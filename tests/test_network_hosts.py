"""Hosts for tests of clusters: several at a time, and what a killed process leaves."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.network_hosts import Hosts
from tests.roles import environment

# Makes hosts, has a process sleep on one of them, says its number and waits to be killed.
_LEFT = """
import subprocess, sys, time
from pathlib import Path
from tests.network_hosts import Hosts
with Hosts(2, Path(sys.argv[1])) as hosts:
    sleeper = subprocess.Popen([*hosts.command(2), "sleep", "600"])
    print(hosts.address(1), sleeper.pid, flush=True)
    time.sleep(600)
"""


def runs(process: int) -> bool:
    """What was killed may wait to be collected by its parent."""
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_hosts_at_a_time_and_what_a_killed_process_leaves(tmp_path: Path) -> None:
    with Hosts(2, tmp_path) as one, Hosts(2, tmp_path) as other:
        assert one.address(1) != other.address(1)
        command = [sys.executable, "-c", _LEFT, str(tmp_path)]
        process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        address, sleeper = process.stdout.readline().split()
        assert address not in (one.address(1), other.address(1))
        assert runs(int(sleeper))
        process.kill()
        process.wait()
        # whoever comes next removes it with what runs there, perhaps another test, and nothing of those that are in use
        with Hosts(2, tmp_path) as third:
            subprocess.run([*third.command(2), "true"], check=True)
        deadline = time.monotonic() + 30
        while runs(int(sleeper)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for number in (1, 2):
            subprocess.run([*one.command(number), "true"], check=True)
