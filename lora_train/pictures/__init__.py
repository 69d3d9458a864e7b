"""Picture and caption files: found, opened, read one by one."""
