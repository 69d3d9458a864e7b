"""Captions: captioners that write them, storage, and bulk edits with undo."""
