"""The owner's door: HTTPS with bearer tokens, in front of a control centre. FastAPI is imported in `api` only."""
