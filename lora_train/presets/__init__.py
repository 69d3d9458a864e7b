"""Presets of other programs with nested options as ours, ours in kohya's form, and presets kept by name."""
