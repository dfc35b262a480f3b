"""Programs of users for type checkers: `right_*.py` has no mistake, in `wrong_*.py` every line that
ends in `# wrong` is one, and no other line. Run by `python -m tests.check_types`, not by pytest."""
