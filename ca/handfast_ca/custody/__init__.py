"""Where the CA keeps its keys."""
