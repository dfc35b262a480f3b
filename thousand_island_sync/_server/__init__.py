"""One run of a server, and the changes of its status."""
