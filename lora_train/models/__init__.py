"""Base-model families: load, encode, predict noise, name modules."""
