"""Visits run here: a child process without network, with the data read-only and nothing else of the host.

`protocol` is what node and child say to each other, `launcher` starts children and measures what is enforced, `visits`
is what the rest of the node uses, `child` and `work` run inside. Only those two import torch.
"""
