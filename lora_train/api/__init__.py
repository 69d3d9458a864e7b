"""REST routes over the service."""
