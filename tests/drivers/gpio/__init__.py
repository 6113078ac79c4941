"""Input lines: the kernel's structures, and files that say 0 and 1."""
