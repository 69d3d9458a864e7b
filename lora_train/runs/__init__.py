"""Runs: their folders, their events, executing them, and the background service."""
