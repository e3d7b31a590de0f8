"""The tests of all three distributions, run from the root of the workspace."""
