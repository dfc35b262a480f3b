"""What is told of a server: the catalogue of events, and how they are sent."""
