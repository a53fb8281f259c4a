"""Which roles one node carries, and how events and effects pass between them."""
