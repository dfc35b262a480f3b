"""The version, in one place: `setup.cfg` reads it here, too."""

VERSION = "0.1.0"
