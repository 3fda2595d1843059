"""The service's process, which 'glyphc serve' turns into. Loads no module that decrypts."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from glyphc.errors import GlyphcError

from .settings import Limits, Settings


@dataclass(frozen=True)
class Listen:
    """Where to listen. certificate, key: files for TLS, or empty."""

    host: str
    port: int
    certificate: str
    key: str


def to_json(settings: Settings, listen: Listen) -> str:
    """What the process is started with."""
    tree: dict[str, Any] = {"settings": asdict(settings), "listen": asdict(listen)}
    return json.dumps(tree, default=str)


def from_json(text: str) -> tuple[Settings, Listen]:
    tree = json.loads(text)
    given = {name: tree["settings"][name] for name in ("programs", "data", "tokens", "trained")}
    paths = {name: Path(path) for name, path in given.items() if path is not None}
    limits = Limits(**tree["settings"]["limits"])
    return replace(Settings(**(tree["settings"] | paths)), limits=limits), Listen(**tree["listen"])


def main(text: str) -> None:
    """Serve until interrupted."""
    import logging

    import uvicorn

    from . import connections, logs
    from .app import make_app

    settings, listen = from_json(text)
    logs.begin(settings.json_logs)
    log = logging.getLogger("glyphc.service")
    try:
        app = make_app(settings)
    except GlyphcError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(e.exit_code)
    guard = app.state.service.guard
    try:
        sockets = connections.listen(listen.host, listen.port, guard)
    except OSError as e:
        print(f"error: cannot listen on {listen.host}, port {listen.port}: {e.strerror}", file=sys.stderr)
        sys.exit(GlyphcError.exit_code)
    config = uvicorn.Config(
        app,
        # the event loop that accepts connections through the sockets' own method
        loop="asyncio",
        http=connections.protocol(guard),
        ws="none",
        ssl_certfile=listen.certificate or None,
        ssl_keyfile=listen.key or None,
        timeout_keep_alive=connections.KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=5,
        # headers do not say who asks
        proxy_headers=False,
        server_header=False,
        access_log=False,
        # our own handler has all lines
        log_config=None,
        log_level="info",
    )
    for each in sockets:
        host, port = each.getsockname()[:2]
        scheme = "https" if listen.certificate else "http"
        log.info("serving on %s://%s:%d", scheme, f"[{host}]" if ":" in host else host, port)
    uvicorn.Server(config).run(sockets=sockets)  # type: ignore[arg-type]


if __name__ == "__main__":
    main(sys.argv[1])
