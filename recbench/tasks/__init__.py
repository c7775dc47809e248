"""Tasks: the contracts between prepared data and models."""
