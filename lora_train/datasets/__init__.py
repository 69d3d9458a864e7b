"""Prepared datasets as people see them: kept pictures, captions, decisions."""
