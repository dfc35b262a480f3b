"""Who listens to an event is known beforehand, and is who `blinker` says at every moment."""

import gc
import threading

import blinker
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thousand_island_sync._telemetry.signals import EventSignal


class Server:
    pass


class Receiver:
    def __call__(self, sender, **_):
        pass

    def method(self, sender, **_):
        pass


def listeners(signal, server):
    """As `emit` finds them; asked twice, for the second time they are known."""
    first = list(signal.simply or signal.listeners(server))
    assert list(signal.simply or signal.listeners(server)) == first
    return first


def test_it_is_a_blinker_signal():
    assert isinstance(EventSignal("socket.send"), blinker.Signal)
    assert EventSignal("socket.send").event == "socket.send"


@pytest.mark.parametrize("weak", [True, False])
@pytest.mark.parametrize("bound", [True, False])
def test_who_connects_listens_until_it_disconnects(weak, bound):
    signal, one = EventSignal("x"), Receiver()
    receiver = one.method if bound else one
    assert listeners(signal, Server()) == []
    signal.connect(receiver, weak=weak)
    assert listeners(signal, Server()) == [receiver]
    signal.disconnect(receiver)
    assert listeners(signal, Server()) == []


@pytest.mark.parametrize("bound", [True, False])
def test_who_is_held_weakly_is_gone_at_once(bound):
    signal, one = EventSignal("x"), Receiver()
    signal.connect(one.method if bound else one)
    assert len(listeners(signal, Server())) == 1
    del one
    gc.collect()
    assert listeners(signal, Server()) == []


def test_who_is_not_stays():
    signal = EventSignal("x")
    signal.connect(Receiver(), weak=False)
    gc.collect()
    assert len(listeners(signal, Server())) == 1


def test_the_last_connect_says_how_it_is_held():
    signal, one = EventSignal("x"), Receiver()
    signal.connect(one, weak=False)
    signal.connect(one)
    assert listeners(signal, Server()) == [one]
    del one
    gc.collect()
    assert listeners(signal, Server()) == []


def test_what_cannot_be_held_weakly_is_heard_all_the_same():
    class Slotted:
        __slots__ = ()

        def __call__(self, sender, **_):
            pass

    signal, one = EventSignal("x"), Slotted()
    signal.connect(one, weak=False)
    with pytest.raises(TypeError):
        signal.connect(one)
    assert listeners(signal, Server()) == [one]


def test_one_servers_listeners_hear_no_other():
    signal, one, other = EventSignal("x"), Server(), Server()
    everybodys, its_own = Receiver(), Receiver()
    signal.connect(everybodys)
    assert listeners(signal, one) == [everybodys]
    signal.connect(its_own, sender=one)
    assert set(listeners(signal, one)) == {everybodys, its_own}
    assert listeners(signal, other) == [everybodys]
    signal.disconnect(its_own, sender=one)
    assert listeners(signal, one) == [everybodys]


def test_connected_for_a_while():
    signal, one = EventSignal("x"), Receiver()
    with signal.connected_to(one):
        assert listeners(signal, Server()) == [one]
    assert listeners(signal, Server()) == []


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["connect", "connect weakly", "disconnect", "forget", "emit"]),
        st.integers(0, 3),
        st.sampled_from([None, None, None, 0, 1]),
    ),
    max_size=30,
)


@given(STEPS)
def test_it_says_what_blinker_says(steps):
    ours, theirs = EventSignal("x"), blinker.Signal()
    servers, receivers = [Server(), Server()], {n: Receiver() for n in range(4)}
    for what, number, server in steps:
        sender = blinker.ANY if server is None else servers[server]
        receiver = receivers.setdefault(number, Receiver())
        for signal in (ours, theirs):
            if what.startswith("connect"):
                signal.connect(receiver, sender, weak=what == "connect weakly")
            elif what == "disconnect":
                signal.disconnect(receiver, sender)
        del receiver
        if what == "forget":
            del receivers[number]
            gc.collect(0)
        for each in servers:
            assert set(listeners(ours, each)) == set(theirs.receivers_for(each))


def test_who_connects_while_the_listeners_are_worked_out_is_heard(monkeypatch):
    signal, early, late = EventSignal("x"), Receiver(), Receiver()
    signal.connect(early)
    asked = signal._ask_blinker

    def slowly(server):
        found = asked(server)
        thread = threading.Thread(target=signal.connect, args=(late,))
        thread.start()
        thread.join()
        return found

    monkeypatch.setattr(signal, "_ask_blinker", slowly)
    assert signal.listeners(Server()) == [early]
    monkeypatch.undo()
    assert set(listeners(signal, Server())) == {early, late}
