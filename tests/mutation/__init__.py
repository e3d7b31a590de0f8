"""Whether the tests bite: each security control is taken away in turn, and a test has to notice."""
