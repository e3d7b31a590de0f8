"""The parsers of what comes from outside, under atheris: the oracles are the properties of tests/parsers."""
