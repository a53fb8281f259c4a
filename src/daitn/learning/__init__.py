"""Tasks, methods and their numerics; the only package besides `node` that may import torch, when used."""
