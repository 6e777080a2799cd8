"""A network laboratory in one process: deterministic, under virtual time, with the real cores in it."""
