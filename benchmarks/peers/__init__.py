"""Peers: what other systems need for the same work, measured in the same run and on the same machine.

Each is installed by the machine's own pip into an environment of its own (`environments`), started as its real
processes on loopback (`processes`), given a small application of ours that does no training (`apps`), and judged by the
record those applications leave (`records`). `flower` and `nvflare` say what each is and how it was set; `measuring`
runs them all and says why one was left out.
"""
