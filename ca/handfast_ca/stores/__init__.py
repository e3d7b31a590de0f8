"""Implementations of the ledger's port. All of them judge with :mod:`handfast_ca.stores.verdicts`."""
