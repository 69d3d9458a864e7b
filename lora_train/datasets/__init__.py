"""Prepared datasets as people see them: what is kept, captions, decisions."""
