"""What everything else stands on: clock, locks, descriptors, addresses, options, fork."""
