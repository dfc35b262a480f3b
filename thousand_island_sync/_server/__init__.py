"""One run of a server, and what changes it."""
