# talk.py
"""Sends each line of standard input to the server, and prints the answer."""

import socket
import ssl
import sys

context = ssl.create_default_context(cafile="cert.pem")
with (
    socket.create_connection(("127.0.0.1", 4000), timeout=60) as plain,
    context.wrap_socket(plain, server_hostname="localhost") as server,
    server.makefile("r") as answers,
):
    for line in sys.stdin:
        server.sendall(line.encode())
        print(answers.readline(), end="", flush=True)
