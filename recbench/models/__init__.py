"""Models: base classes, layers, and one file per model."""
