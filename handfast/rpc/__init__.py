"""gRPC: credentials that rotate, a guard that judges every call, channels that survive rotations."""
