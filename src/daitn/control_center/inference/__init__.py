"""The control centre's inference half: which models are served, and by whom."""
