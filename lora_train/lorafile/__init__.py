"""The LoRA file format: read, write, metadata."""
