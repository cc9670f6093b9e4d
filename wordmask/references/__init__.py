"""Reference files: their format, and how they are written."""
