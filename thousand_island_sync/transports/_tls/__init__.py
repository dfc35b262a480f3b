"""TLS, with pyOpenSSL."""
