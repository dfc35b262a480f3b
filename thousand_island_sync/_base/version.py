"""The version, in one place: `pyproject.toml` reads it here, too."""

VERSION = "1.0.0"
