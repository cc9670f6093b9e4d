"""Load a model, find out what it can do by running it, and send batches through it."""
