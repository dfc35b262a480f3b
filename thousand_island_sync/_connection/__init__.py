"""One connection: its state, its callbacks, its messages, its end."""
