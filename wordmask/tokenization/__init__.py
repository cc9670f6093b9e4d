"""From text to tokens, and which word each token belongs to."""
