"""Handfast: identities for services."""
