"""Data: cards, fetching, readers, splits, prepared storage."""
