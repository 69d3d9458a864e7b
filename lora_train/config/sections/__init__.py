"""The sections of a run's options: each field with its default and its description."""
