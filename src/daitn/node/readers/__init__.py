"""Readers of data: one file per format, one contract (`readers.contract`), chosen by suffix or content."""
