"""The events of a server: their catalogue, and how they are sent."""
