"""Commands of the command line, one module for each; ``glyphc.cli`` registers them."""
