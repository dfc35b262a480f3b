"""The bytes of one connection: its two sides."""
