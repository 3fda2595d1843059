"""Commands in groups, each registered by ``glyphc.cli``."""
