"""`<lora:...>` in prompts: syntax, and applying networks to a model."""
