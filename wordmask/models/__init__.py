"""Loading a model, finding out what it can take, and how batches go through it."""
