"""What a run writes down so that it can be told from others and resumed."""
