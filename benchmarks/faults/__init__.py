"""Question: what does each fault cost, at each point of a running job, and is anything lost, doubled or unfenced?"""
