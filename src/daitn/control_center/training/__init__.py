"""The training side of the control centre: admission (T-FAM) and the job machine."""
