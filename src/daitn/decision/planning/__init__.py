"""Planning whole routes (MTRCE): budget and quota form, by our own search with compiled inner loops."""
