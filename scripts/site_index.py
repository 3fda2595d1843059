"""A hook of mkdocs: the site's first page is README.md, with links as they are seen from docs/."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

_LINK = re.compile(r"\[([^\]]+)\]\(([^)]+)\)")


def index(readme: str) -> str:
    """Pages of docs/ lie beside it; what else lies in the repository is not on the site, so only its name stays."""

    def link(match: re.Match[str]) -> str:
        text, target = match.groups()
        if target.startswith("docs/"):
            return f"[{text}]({target.removeprefix('docs/')})"
        return match[0] if target.startswith(("http", "#")) else text

    return _LINK.sub(link, readme)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Called by mkdocs once it knows the pages."""
    readme = Path(config.config_file_path).parent / "README.md"
    files.append(File.generated(config, "index.md", content=index(readme.read_text())))
    return files
