"""A module that cannot be imported, for the command line's tests."""

raise ZeroDivisionError("on purpose")
