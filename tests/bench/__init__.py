"""Benchmarks: each measures what it compares in one run, and prints the ratio."""
