"""``handfast agent``."""
