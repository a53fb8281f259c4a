"""Which host a query goes to (QIRCE, paper II-B), what is learnt on the way, and whose turn it is at a host."""
