"""Captions as text: cleaned, joined, edited in bulk with undo, written beside pictures. No models here."""
