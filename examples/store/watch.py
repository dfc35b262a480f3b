# watch.py
"""Prints each change of a key: python watch.py NAME PASSWORD KEY"""

import socket
import ssl
import sys

name, password, key = sys.argv[1:]
context = ssl.create_default_context(cafile="cert.pem")
with (
    socket.create_connection(("127.0.0.1", 4000)) as plain,
    context.wrap_socket(plain, server_hostname="localhost") as server,
    server.makefile("r") as answers,
):
    server.sendall(f"LOGIN {name} {password}\nWATCH {key}\n".encode())
    for line in answers:
        print(line, end="", flush=True)
