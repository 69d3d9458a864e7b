"""Small networks beside a frozen base: one file per kind, each named in its record (`records.kinds`)."""
