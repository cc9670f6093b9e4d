"""Command lines: the parser, the flags, old flags, and checks of how a run was started."""
