"""Command lines: the parser, the flags, what became of old ones, and checks of how a run was started."""
