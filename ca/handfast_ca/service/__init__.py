"""gRPC: what arrives becomes values, the authority decides, what it decides becomes messages. Nothing is decided here."""
