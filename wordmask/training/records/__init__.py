"""What a run writes down, so that we can recognize and resume it."""
