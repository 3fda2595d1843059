"""The service's log as JSON: what collectors of logs read."""

from __future__ import annotations

import json
import logging
import sys

from glyphc.service.logs import JsonLines, about


def line(message: str, *values: object, **more: object) -> dict[str, str]:
    logger = logging.getLogger("glyphc.test")
    record = logger.makeRecord(
        "glyphc", logging.INFO, "f.py", 1, message, values, more.get("error"), extra=more.get("extra")
    )
    text = JsonLines().format(record)
    assert "\n" not in text
    found: dict[str, str] = json.loads(text)
    return found


def test_a_line_is_an_object() -> None:
    found = line("job %s of %s begins", "1f", "alice", extra=about("1f", "alice"))
    assert {**found, "time": ""} == {
        "time": "",
        "level": "info",
        "message": "job 1f of alice begins",
        "job": "1f",
        "client": "alice",
    }
    assert found["time"].endswith("+00:00")


def test_line_ends_and_tracebacks_stay_in_one_line() -> None:
    try:
        raise ValueError("two\nlines")
    except ValueError:
        found = line("stumbled\nonce", error=sys.exc_info())
    assert found["message"] == "stumbled\nonce"
    assert "ValueError: two\nlines" in found["error"]
