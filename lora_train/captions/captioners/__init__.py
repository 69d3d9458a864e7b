"""Captioners, which describe pictures: one file per kind, listed in registry.py."""
