"""The store of a node: artifacts as pack files, found by the digest of any of their chunks.

One file per artifact, `[payload in layout order | parts | manifest]`, so that a child process can write its result
straight into the store, a model is mapped instead of read, and dropping an artifact is one `unlink`. A pack holds all
chunks of its artifact even where another pack holds them too: copies are made by the kernel (shared blocks where the
file system can), and no eviction can ever break another artifact. Why not a file per chunk: a 2 GB model would be a
thousand opens and could not be mapped. Why not reference counts: a lost one either leaks or destroys.

`files` does what the kernel is asked for, `index` remembers packs in SQLite, `shelf` keeps room and pins, `held` finds
and reads, `receipt` is an artifact being received, `tensors` one being read, `chunks` the store itself. Not here:
fetching and serving over the network, grants.
"""

from daitn.node.store.chunks import Adopted, ChunkStore
from daitn.node.store.files import OutputFile
from daitn.node.store.held import StoreSnapshot
from daitn.node.store.index import ChunkPlace
from daitn.node.store.receipt import Receipt, Want
from daitn.node.store.tensors import TensorMap

__all__ = ["Adopted", "ChunkPlace", "ChunkStore", "OutputFile", "Receipt", "StoreSnapshot", "TensorMap", "Want"]
