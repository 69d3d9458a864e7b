"""Many captions: stored, edited in bulk with undo, and what makes them."""
