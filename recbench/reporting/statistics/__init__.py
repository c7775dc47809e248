"""What can be said about a difference between models, and with what certainty."""
