"""One run, from its arguments to its results."""
