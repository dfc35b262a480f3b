"""The command line, `thousand-island`. Nothing else imports it."""
