"""Options that a type checker refuses."""

from OpenSSL import SSL

from thousand_island_sync import TCP, TLS, Handler, ThousandIsland, TransportOptions


class Mine(Handler): ...


class NoHandler: ...


ThousandIsland(port=0)  # wrong
ThousandIsland(Mine)  # wrong
ThousandIsland(handler_cls=Mine(None))  # wrong
ThousandIsland(handler_cls=NoHandler)  # wrong
ThousandIsland(handler_cls=Mine, prt=0)  # wrong
ThousandIsland(handler_cls=Mine, port="0")  # wrong
ThousandIsland(handler_cls=Mine, port=None)  # wrong
ThousandIsland(handler_cls=Mine, host=b"::")  # wrong
ThousandIsland(handler_cls=Mine, transport_cls=NoHandler)  # wrong
ThousandIsland(handler_cls=Mine, certfile="a.pem")  # wrong
ThousandIsland(handler_cls=Mine, transport_options={"nodelaj": True})  # wrong
ThousandIsland(handler_cls=Mine, transport_options={"nodelay": "yes"})  # wrong
ThousandIsland(handler_cls=Mine, transport_options={"port": 5})  # wrong
ThousandIsland(handler_cls=Mine, transport_options=[("nodelay", True)])  # wrong
ThousandIsland(handler_cls=Mine, max_connections=None)  # wrong
ThousandIsland(handler_cls=Mine, read_timeout=5)  # wrong
ThousandIsland(handler_cls=Mine, read_timeout_ms="5")  # wrong
ThousandIsland(handler_cls=Mine, interrupt_reads="no")  # wrong
ThousandIsland(handler_cls=Mine, name=5)  # wrong
TLS.prepare(certfil="a.pem")  # wrong
TLS.prepare(certfile=5)  # wrong
TLS.prepare(certfile="a.pem", verify="always")  # wrong
TLS.prepare(certfile="a.pem", min_version=1.3)  # wrong
TLS.prepare(certfile="a.pem", context=5)  # wrong
TLS.prepare(certfile="a.pem", alpn_protocols=[b"h2"])  # wrong
TLS.prepare(certfile="a.pem", sni={"b.example": {"certfil": "b.pem"}})  # wrong
TLS.prepare(certfile="a.pem", sni={"b.example": {"backlog": 5}})  # wrong
TLS.prepare(certfile="a.pem", sni=lambda name: 5)  # wrong
TLS.prepare({"certfile": "a.pem"})  # wrong
TLS.prepare(certfile="a.pem").reload(host="::")  # wrong

server = ThousandIsland(handler_cls=Mine, transport_cls=TCP)
server.reload_transport(host="::1")  # wrong
server.reload_transport(nodelay=5)  # wrong
server.reload_transport({"nodelay": True})  # wrong
server.stop(timeout_ms="5")  # wrong
server.wait(timeout=5)  # wrong
server.serve_forever(Mine)  # wrong
server.serve_forever(reload=5)  # wrong
server.serve_forever(drain_delay_ms="5")  # wrong
server.watch_certificates(interval_ms="5")  # wrong
server.name = "other"  # wrong
if server.status == "runing":  # wrong
    server.stop()

options: TransportOptions = {"backlog": 5, "unix_mod": 0o600}  # wrong
options["context"] = SSL.Context  # wrong
