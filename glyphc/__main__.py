"""``python -m glyphc``."""

from glyphc.cli import main

main()
