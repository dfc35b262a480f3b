"""Echo over TLS. Without --certfile it makes a certificate of its own with trustme
(`pip install trustme`), and writes its authority to --ca-out.

    python examples/tls_echo.py --port 4443 --ca-out ca.pem
    openssl s_client -connect 127.0.0.1:4443 -CAfile ca.pem
"""

import argparse

from thousand_island_sync import TLS, Handler, Socket, ThousandIsland, TransportOptions


class Echo(Handler):
    def handle_data(self, data: bytes, socket: Socket) -> None:
        socket.send(data)


def own_certificate(ca_out: str | None) -> TransportOptions:
    import trustme

    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    if ca_out:
        authority.cert_pem.write_to_path(ca_out)
    chain = b"".join(part.bytes() for part in issued.cert_chain_pems)
    return {"certfile": chain, "keyfile": issued.private_key_pem.bytes()}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=4443)
    parser.add_argument("--certfile")
    parser.add_argument("--keyfile")
    parser.add_argument("--ca-out")
    given = parser.parse_args(arguments)
    if given.certfile:
        options: TransportOptions = {
            "certfile": given.certfile,
            "keyfile": given.keyfile or given.certfile,
        }
    else:
        options = own_certificate(given.ca_out)
    server = ThousandIsland(
        handler_cls=Echo,
        host="127.0.0.1",
        port=given.port,
        transport_cls=TLS,
        transport_options=options,
    ).start()
    print("listening on", server.local_port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
