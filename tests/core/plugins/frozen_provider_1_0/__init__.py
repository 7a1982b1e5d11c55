"""A provider as somebody wrote it for API 1.0. Frozen: it must work as it is for as long as 1.0 is served."""
