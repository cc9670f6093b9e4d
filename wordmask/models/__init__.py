"""Models: loading, finding out by numbers what a model can do, and the forward pass."""
