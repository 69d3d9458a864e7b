"""Things added from outside of the package, each in one file and with one line of registration."""
