"""Options that the testing kit's functions refuse, too."""

from thousand_island_sync import Handler
from thousand_island_sync.testing import call, serve

call(Handler, read_timeout="5")  # wrong
call(Handler, read_timeout_ms="5")  # wrong
call(Handler(None))  # wrong
with serve(Handler, prt=5) as server:  # wrong
    server.connect(timeout="5")  # wrong
with serve(Handler, port="5"):  # wrong
    pass
