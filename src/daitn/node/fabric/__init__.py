"""The fabric: how nodes of a domain reach each other; `contract` says what it promises, the rest keeps it."""
