"""``handfast ca``."""
