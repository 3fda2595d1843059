"""The service's log: lines of text, or a JSON object a line."""

from __future__ import annotations

import json
import logging
from datetime import datetime, timezone

_ABOUT = ("job", "client")


def about(job: str, client: str) -> dict[str, str]:
    """What a line is about, for ``extra`` of the logger's methods."""
    return {"job": job, "client": client}


class JsonLines(logging.Formatter):
    """time (ISO 8601, UTC), level, message; job and client where a line is about one; error: a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds")
        tree = {"time": moment, "level": record.levelname.lower(), "message": record.getMessage()}
        tree |= {name: getattr(record, name) for name in _ABOUT if hasattr(record, name)}
        if record.exc_info:
            tree["error"] = self.formatException(record.exc_info)
        return json.dumps(tree, ensure_ascii=False)


def begin(json_lines: bool) -> None:
    """From here on the log goes to stderr in one of the two forms."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines() if json_lines else logging.Formatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
