"""What everybody must know of a network kind or a family of base models, without torch: one record for each."""
