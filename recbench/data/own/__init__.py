"""Cards for data of the user's own."""
