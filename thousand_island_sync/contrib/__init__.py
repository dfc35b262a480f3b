"""What serves one other program each: import what you use."""
