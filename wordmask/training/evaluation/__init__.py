"""The evaluations of a run: figures, words and predictions, before training, during it and after it."""
