"""From text to batches: sources, tokens, sequences, the order of an epoch, and the collator."""
