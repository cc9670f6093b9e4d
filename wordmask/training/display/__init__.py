"""What a person sees of a run at the terminal: header, bar, a line for each evaluation."""
