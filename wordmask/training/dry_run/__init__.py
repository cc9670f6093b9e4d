"""What a run would take: steps, tokens, time, memory, room on the disk. Some steps are tried, nothing is written."""
