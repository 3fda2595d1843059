"""A real browser without a window: what a page shows after its script has run, and pictures of it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from html import unescape
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")


def executable() -> str:
    """Chromium's path; the test fails, with what to do, when there is none."""
    for name in (os.environ.get("GLYPHC_CHROMIUM", ""), *NAMES):
        if name and (path := shutil.which(name)):
            return path
    pytest.fail("there is no Chromium: 'make browser' installs it (root, apt), or GLYPHC_CHROMIUM names one")


def chromium(page: Path, *options: str, fragment: str = "") -> str:
    """Standard output of one visit. Pages cannot reach any network: names do not resolve, everything goes nowhere."""
    with tempfile.TemporaryDirectory() as profile:
        command = [
            executable(),
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--window-size=1440,900",
            f"--user-data-dir={profile}",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            *options,
            page.as_uri() + fragment,
        ]
        result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout


def evaluate(page: Path, script: str, folder: Path, fragment: str = "") -> Any:
    """What a script returns in the page, as JSON; an error in the page's own script fails the test."""
    probe = f"""<script>
    window.addEventListener("load", () => {{
      let result;
      try {{ result = {{ value: (() => {{ {script} }})() }}; }} catch (e) {{ result = {{ error: String(e) }}; }}
      const e = document.createElement("pre");
      e.id = "probe"; e.textContent = JSON.stringify({{ ...result, errors: window.errors }});
      document.body.append(e);
    }});</script>"""
    catcher = "<script>window.errors = []; window.onerror = (m) => { window.errors.push(String(m)); };</script>"
    text = (
        page.read_text(encoding="utf-8")
        .replace("<head>", "<head>" + catcher, 1)
        .replace("</body>", probe + "</body>", 1)
    )
    probed = folder / f"probed-{page.name}"
    probed.write_text(text, encoding="utf-8")
    dom = chromium(probed, "--dump-dom", fragment=fragment)
    found = json.loads(unescape(dom.split('<pre id="probe">')[1].split("</pre>")[0]))
    assert found["errors"] == []
    assert "error" not in found, found["error"]
    return found["value"]


def screenshot(page: Path, picture: Path, fragment: str = "") -> None:
    chromium(page, f"--screenshot={picture}", fragment=fragment)
