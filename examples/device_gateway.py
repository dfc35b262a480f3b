"""A gateway for devices that show a certificate (mTLS), and are sent commands.

A device's name is the common name of its certificate. It sends reports, JSON behind two bytes of
length, and gets commands in the same manner at any time. Operators come by a Unix socket, which
its owner alone may use, and say `LIST`, or `PUSH device command`, one a line.

    python examples/device_gateway.py --port 4480 --operators /tmp/gateway.sock \\
        --certfile server.pem --keyfile server.key --ca-certs devices.pem
    printf 'PUSH thermometer reboot\\n' | socat - UNIX-CONNECT:/tmp/gateway.sock
"""

import argparse
import json
import struct
from typing import Any

from cryptography.x509.oid import NameOID

from thousand_island_sync import (
    TLS,
    Close,
    Connection,
    Handler,
    LengthPrefix,
    Lines,
    SendBufferFull,
    Socket,
    SocketClosed,
    ThousandIsland,
)

#: The devices that are there. One step of a dictionary is one step of all threads'.
Devices = dict[str, Connection]


def framed(message: dict[str, Any]) -> bytes:
    body = json.dumps(message).encode()
    return struct.pack(">H", len(body)) + body


class Device(Handler):
    framing = LengthPrefix(">H", limit=16_384)

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.devices: Devices = options
        self.name = ""

    def handle_connection(self, socket: Socket) -> Close | None:
        certificate = socket.peer_certificate()
        assert certificate is not None  # `verify` is "required"
        names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        if not names:
            return Close()
        self.name = str(names[0].value)
        self.devices[self.name] = socket.connection  # the newest connection counts
        return None

    def handle_data(self, report: bytes, socket: Socket) -> None:
        values = json.loads(report)
        print(self.name, values, flush=True)
        socket.send(framed({"taken": len(values)}))

    def handle_end(self, socket: Socket) -> None:
        if self.devices.get(self.name) is socket.connection:
            del self.devices[self.name]


class Operator(Handler):
    framing = Lines()

    def __init__(self, options: Any) -> None:
        super().__init__(options)
        self.devices: Devices = options

    def handle_data(self, line: bytes, socket: Socket) -> None:
        match line.decode("utf-8", "replace").split(maxsplit=2):
            case ["LIST"]:
                socket.send(" ".join(sorted(self.devices)).encode() + b"\n")
            case ["PUSH", name, command]:
                socket.send(self.push(name, command))
            case _:
                socket.send(b"ERR takes LIST, or PUSH device command\n")

    def push(self, name: str, command: str) -> bytes:
        try:
            self.devices[name].send(framed({"command": command}))
        except (KeyError, SocketClosed, SendBufferFull) as error:
            return f"ERR {name}: {type(error).__name__}\n".encode()
        return b"OK\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=4480)
    parser.add_argument("--operators", default="/tmp/gateway.sock")
    parser.add_argument("--certfile", required=True)
    parser.add_argument("--keyfile", required=True)
    parser.add_argument("--ca-certs", required=True, help="who signs the devices' certificates")
    given = parser.parse_args(arguments)
    devices: Devices = {}
    operators = ThousandIsland(
        handler_cls=Operator,
        handler_options=devices,
        host=f"unix:{given.operators}",
        transport_options={"unix_mode": 0o600},
    ).start()
    gateway = ThousandIsland(
        handler_cls=Device,
        handler_options=devices,
        host="127.0.0.1",
        port=given.port,
        read_timeout_ms=None,
        transport_cls=TLS,
        transport_options={
            "certfile": given.certfile,
            "keyfile": given.keyfile,
            "ca_certs": given.ca_certs,
            "verify": "required",
        },
    ).start()
    print("listening on", gateway.local_port, flush=True)
    gateway.serve_forever(operators)


if __name__ == "__main__":
    main()
