"""Messages, one module per link the paper names, and the codec that bounds what it decodes."""
