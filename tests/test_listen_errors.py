"""What `start` says when nothing can listen: which option or address, and what to do."""

import errno
import os
import re
import socket

import pytest

from tests.support import Echo
from thousand_island_sync import ListenError, ThousandIsland
from thousand_island_sync._base.listen_errors import OptionRefused, listen_error

SOL_SOCKET = socket.SOL_SOCKET


def refused(**options):
    """The error of a server that cannot start."""
    if "sockets" not in options.get("transport_options", {}):
        options.setdefault("host", "127.0.0.1")
        if not options["host"].startswith("unix:"):
            options.setdefault("port", 0)
    server = ThousandIsland(handler_cls=Echo, **options)
    with pytest.raises(ListenError) as caught:
        server.start()
    assert server.status == "new"
    return caught.value


@pytest.mark.parametrize(
    ("entry", "number", "shown"),
    [
        ((SOL_SOCKET, 9999, 1), errno.ENOPROTOOPT, "(SOL_SOCKET, 9999, 1)"),
        ((SOL_SOCKET, 9999, 1 << 40), errno.EINVAL, "(SOL_SOCKET, 9999, 1099511627776)"),
        ((1 << 40, 1, 1), errno.EINVAL, "(1099511627776, 1, 1)"),
        (
            (SOL_SOCKET, getattr(socket, "SO_BINDTODEVICE", 25), b"nope0"),
            errno.ENODEV,
            "(SOL_SOCKET, SO_BINDTODEVICE, ...)",
        ),
        (
            (socket.IPPROTO_TCP, getattr(socket, "TCP_CONGESTION", 13), b"nosuch"),
            errno.ENOENT,
            "(IPPROTO_TCP, TCP_CONGESTION, ...)",
        ),
    ],
)
def test_a_refused_entry_of_socket_options_is_named(entry, number, shown):
    error = refused(transport_options={"socket_options": [entry]})
    assert error.errno == number
    assert f"socket_options: {shown} was refused" in str(error)
    assert "leave it out" in str(error)
    assert "127.0.0.1" not in str(error)


@pytest.mark.parametrize("option", ["user_timeout_ms", "keepalive_idle_s", "recv_buffer"])
def test_any_option_that_the_kernel_refuses_is_named(option, monkeypatch):
    from thousand_island_sync.transports import _tcp_options

    level = _tcp_options._CALLS[option][0]
    monkeypatch.setitem(_tcp_options._CALLS, option, (level, "SOMAXCONN"))  # no such option
    error = refused(transport_options={option: 9})
    assert re.search(rf"cannot listen: {option}=9 was refused: .*; leave it out", str(error))


def test_an_option_that_the_platform_has_not_is_named(monkeypatch):
    from thousand_island_sync.transports import _tcp_options

    call = socket.IPPROTO_TCP, "TCP_NO_SUCH_THING"
    monkeypatch.setitem(_tcp_options._CALLS, "user_timeout_ms", call)
    error = refused(transport_options={"user_timeout_ms": 9})
    assert "user_timeout_ms=9 was refused: this platform has no TCP_NO_SUCH_THING" in str(error)


def test_an_inherited_socket_that_does_not_listen_or_is_closed_is_named():
    with socket.socket() as sock:
        number = sock.fileno()
        error = refused(transport_options={"sockets": [sock]})
        assert f"sockets: descriptor {number} was refused: is not a listening" in str(error)


def test_a_descriptor_that_is_closed_or_no_socket_is_named_and_none_is_left():
    reader, writer = os.pipe()
    for number, found in ((reader, errno.ENOTSOCK), (1 << 20, errno.EBADF), (1 << 70, errno.EBADF)):
        error = refused(transport_options={"sockets": [number]})
        assert error.errno == found
        assert f"sockets: descriptor {number} was refused" in str(error)
        assert "give open sockets on which listen() was called" in str(error)
    os.close(reader)
    os.close(writer)


def test_an_address_that_is_not_ours():
    error = refused(host="192.0.2.55")
    assert error.errno == errno.EADDRNOTAVAIL
    assert "192.0.2.55 port 0" in str(error)
    assert "no interface of this machine has that address" in str(error)


def test_an_address_in_use():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        error = refused(port=taken.getsockname()[1])
    assert error.errno == errno.EADDRINUSE
    assert "choose another address or port, or stop the program that has it" in str(error)


@pytest.mark.parametrize(
    ("host", "advice"),
    [
        ("nosuch.invalid", "the name does not resolve|name server does not answer"),
        ("a..example", "the name does not resolve"),
        ("x" * 70 + ".example", "the name does not resolve"),
        ("127.0.0.1:80", "the port is an option of its own: host='127.0.0.1', port=80"),
        ("/tmp/a.sock", "a Unix socket is .* host='unix:/tmp/a.sock'"),
        ("http://nosuch.invalid:80/x", "give the host name alone: host='nosuch.invalid', port=80"),
        ("http://nosuch.invalid", "host='nosuch.invalid'$"),
        ("[::1]", "leave the brackets out: host='::1'"),
        ("[::1]:80", "the port is an option of its own: host='::1', port=80"),
        ("fe80::1%nosuch0", "an interface of that name"),
        ("fe80::1", "a link-local address needs its interface: fe80::1%eth0"),
    ],
)
def test_a_name_that_does_not_resolve(host, advice):
    error = refused(host=host)
    assert host in str(error)
    assert re.search(advice, str(error))


def test_a_folder_that_is_missing(tmp_path):
    error = refused(host=f"unix:{tmp_path}/missing/a.sock")
    assert error.errno == errno.ENOENT
    assert f"the folder {tmp_path}/missing does not exist; make it first" in str(error)


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs a folder of the kernel's")
def test_a_folder_that_is_there_and_takes_no_sockets():
    error = refused(host="unix:/proc/self/a.sock")
    assert "/proc/self does not take sockets; choose another path" in str(error)


def test_a_folder_that_is_none(tmp_path):
    (tmp_path / "file").touch()
    error = refused(host=f"unix:{tmp_path}/file/a.sock")
    assert error.errno == errno.ENOTDIR
    assert f"{tmp_path}/file is not a folder" in str(error)


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "a.sock").touch()
    error = refused(host=f"unix:{tmp_path}/a.sock")
    assert error.errno == errno.EEXIST
    assert "remove it, or choose another path" in str(error)


def test_a_path_that_is_too_long():
    path = "/" + "x" * 120
    error = refused(host=f"unix:{path}")
    assert error.errno == errno.ENAMETOOLONG
    assert "it has 121 bytes, takes at most 107" in str(error)


@pytest.mark.parametrize(
    ("number", "host", "port", "advice"),
    [
        (errno.EACCES, "0.0.0.0", 1, "ports below [0-9]+ need root or CAP_NET_BIND_SERVICE"),
        (errno.EACCES, "unix:/x/a", 0, "no permission to make a socket in /x"),
        (errno.EROFS, "unix:/x/a", 0, "/x is read-only"),
        (errno.EAFNOSUPPORT, "::1", 5, "no IPv6"),
        (errno.EMFILE, "::1", 5, "no descriptor is free"),
        (errno.ENFILE, "unix:/x/a", 0, "no descriptor is free"),
        (errno.ENOBUFS, "::1", 5, "out of memory for sockets"),
        (errno.EADDRINUSE, "unix:/x/a", 0, "choose another path, or stop the program that has it"),
        (errno.EPROTO, "::1", 5, "choose another address or port$"),
    ],
)
def test_the_advice_fits_the_errno(number, host, port, advice):
    error = listen_error(OSError(number, os.strerror(number)), host, port)
    assert error.errno == number
    assert host in str(error)
    assert os.strerror(number) in str(error)
    assert re.search(advice, str(error)), str(error)


def test_an_option_that_needs_a_privilege():
    refusal = OptionRefused("mark=1", OSError(errno.EPERM, "Operation not permitted"))
    assert "it needs a privilege; grant it" in str(listen_error(refusal, "::1", 5))


def test_a_name_server_that_does_not_answer():
    error = listen_error(socket.gaierror(socket.EAI_AGAIN, "Temporary failure"), "a.example", 5)
    assert error.errno == socket.EAI_AGAIN
    assert "try again, or give an address" in str(error)


def test_an_error_without_a_number():
    error = listen_error(OSError("no reason given"), "::1", 5)
    assert "cannot listen on ::1 port 5: no reason given; " in str(error)
