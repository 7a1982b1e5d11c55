"""A provider for tests: an executor that reaches the machine it is on by a detour."""
