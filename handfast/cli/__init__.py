"""The operator's command line: one module a noun, found lazily so that ``--help`` stays quick."""
