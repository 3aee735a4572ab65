"""Worker processes that share a port, and what supervises them."""
