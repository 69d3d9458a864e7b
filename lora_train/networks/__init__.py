"""Small networks beside a frozen base: one file per kind, listed in `registry.KINDS`."""
