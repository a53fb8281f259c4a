"""Tools layer (the paper's services): contracts and state of the communication service."""
