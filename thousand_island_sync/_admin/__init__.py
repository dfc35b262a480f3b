"""The parts of `AdminServer`, `ctl` and `top`."""
