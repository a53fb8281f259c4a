"""Control centre (DCC): cores that admit, plan and carry jobs."""
