"""Raw files: fetched from mirrors, packages, urls and archives, and checked."""
