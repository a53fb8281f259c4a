"""An owner's module to a graph pair and back: `export_pair` at the owner, `rebuild` at a site; exact both ways."""
