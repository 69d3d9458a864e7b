"""Where the package runs: inside a WebUI, or alone. Everything else sees only a `Host`."""
