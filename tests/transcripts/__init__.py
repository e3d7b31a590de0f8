"""What a reader of a terminal sees, command by command: see :mod:`tests.transcripts.transcript` for the format."""
