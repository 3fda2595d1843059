"""Fuzzers for every format that glyphc reads: see ``__main__`` (``make fuzz``) and ``tests/test_fuzz.py``."""
