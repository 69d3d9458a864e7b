"""The facts about network kinds and families of base models that need no torch: one record for each."""
