"""Demonstrations: a whole network on one machine, from data to report; what `daitn demo` runs."""
