"""The flags: their help, defaults and old names, and the checks at the start of a run."""
