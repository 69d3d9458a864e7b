"""One picture or caption file: found, opened, read."""
