"""What `AdminServer`, `ctl` and `top` are made of."""
