"""What looks at pictures and says what is on them: one file per kind, listed in registry.py."""
