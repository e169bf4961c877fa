"""`ntre studio`: a page on 127.0.0.1 for making support masks, and for seeing the network work on one's own photos."""
