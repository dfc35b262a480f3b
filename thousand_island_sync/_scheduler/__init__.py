"""Who runs what, and when: permits, threads, the poller, timers."""
