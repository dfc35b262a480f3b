"""TLS, by way of pyOpenSSL."""
