"""Every example, run as a user would, with a real client."""

import re
import smtplib
import socket
import ssl
import subprocess

import pytest

from tests.programs import ROOT, Script, program
from tests.support import receive, receive_all

#: Skipped on a free-threaded 3.13 alone; `authority` fails where everything is required.
needs_tls = pytest.mark.usefixtures("authority")


@pytest.fixture
def example(tmp_path):
    scripts = []

    def run(name, *arguments):
        script = Script(str(ROOT / "examples" / f"{name}.py"), *arguments)
        scripts.append(script)
        return script

    yield run
    for script in scripts:
        assert script.stop() == 0, script.errors
        assert not script.errors


def connect(script):
    return socket.create_connection(("127.0.0.1", int(script.port)), timeout=10)


def run(*command, **options):
    return subprocess.run(command, capture_output=True, timeout=60, **options)


def test_echo_with_nc_like_client(example):
    script = example("echo", "--port", "0")
    with connect(script) as sock:
        sock.sendall(b"hello")
        assert receive(sock, 5) == b"hello"


def test_daytime(example):
    script = example("daytime", "--port", "0")
    with connect(script) as sock:
        assert re.fullmatch(rb"\w+, \w+ \d\d, \d{4} [\d:]{8}-\w+\r\n", receive_all(sock))


def test_http_hello_with_curl(example):
    curl = program("curl")
    script = example("http_hello", "--port", "0")
    url = f"http://127.0.0.1:{script.port}/"
    result = run(curl, "-sS", "-v", url, url)
    assert result.stdout == b"Hello, world!\nHello, world!\n"
    assert b"200 OK" in result.stderr
    assert re.search(b"Re-?using existing", result.stderr)  # before curl 8.11, and since
    assert run(curl, "-sS", "-I", url).stdout.startswith(b"HTTP/1.1 200 OK")
    assert run(curl, "-sS", "--http1.0", url).stdout == b"Hello, world!\n"
    code = run(curl, "-sS", "-o", "/dev/null", "-w", "%{http_code}", "-d", "x", url)
    assert code.stdout == b"405"


def test_http_hello_with_cut_and_pipelined_requests(example):
    script = example("http_hello", "--port", "0")
    with connect(script) as sock:
        sock.sendall(b"GET / HTTP/1.1\r\nHo")
        sock.sendall(b"st: x\r\n\r\nGET / HTTP/1.1\r\nConnection: close\r\n\r\n")
        answer = receive_all(sock)
    assert answer.count(b"Hello, world!\n") == 2
    with connect(script) as sock:
        sock.sendall(b"nonsense\r\n\r\n")
        assert receive_all(sock).startswith(b"HTTP/1.1 400")


def test_messenger(example):
    script = example("messenger", "--port", "0")
    with connect(script) as one, connect(script) as two, connect(script) as three:
        for sock in (one, two, three):
            assert receive(sock, 8) == b"welcome\n"
        one.sendall(b"hello ")
        one.sendall(b"all\nagain\n")
        for sock in (two, three):
            assert receive(sock, 16) == b"hello all\nagain\n"
        two.sendall(b"hi\n")
        assert receive(one, 3) == b"hi\n"


@needs_tls
def test_tls_echo_with_openssl(example, tmp_path):
    openssl = program("openssl")
    ca = str(tmp_path / "ca.pem")
    script = example("tls_echo", "--port", "0", "--ca-out", ca)
    client = subprocess.Popen(
        [openssl, "s_client", "-connect", f"127.0.0.1:{script.port}", "-CAfile", ca]
        + ["-quiet", "-verify_return_error", "-no_ign_eof"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    client.stdin.write(b"over TLS\n")
    client.stdin.flush()
    assert client.stdout.read(9) == b"over TLS\n"
    client.stdin.close()
    assert client.wait(20) == 0
    client.stdout.close()
    client.stderr.close()


def test_tls_echo_with_a_given_certificate(example, tmp_path, authority):
    (tmp_path / "cert.pem").write_bytes(authority.chain + authority.key)
    script = example("tls_echo", "--port", "0", "--certfile", str(tmp_path / "cert.pem"))
    context = authority.client_context()
    with connect(script) as sock, context.wrap_socket(sock, server_hostname="localhost") as tls:
        tls.sendall(b"x")
        assert tls.recv(1) == b"x"


@needs_tls
def test_smtp_sink_with_smtplib(example, tmp_path):
    ca = str(tmp_path / "ca.pem")
    script = example("smtp_sink", "--port", "0", "--ca-out", ca)
    context = ssl.create_default_context(cafile=ca)
    with smtplib.SMTP("localhost", int(script.port), timeout=10) as mail:
        mail.sendmail("a@example.org", ["b@example.org"], "Subject: plain\r\n\r\none\r\n")
        script.wait_for(r"(3 lines, plain)")
        assert mail.starttls(context=context)[0] == 220
        mail.ehlo()
        assert not mail.has_extn("starttls")
        mail.sendmail("a@example.org", ["b@example.org"], "Subject: x\r\n\r\n" + "y\r\n" * 5000)
        script.wait_for(r"(5002 lines, TLS)")


@needs_tls
def test_smtp_sink_takes_no_plaintext_for_encrypted(example, tmp_path):
    """The injection of CVE-2011-0411: commands behind STARTTLS in the same packet."""
    ca = str(tmp_path / "ca.pem")
    script = example("smtp_sink", "--port", "0", "--ca-out", ca)
    context = ssl.create_default_context(cafile=ca)
    with connect(script) as sock:
        assert receive(sock, 16) == b"220 sink ready\r\n"
        sock.sendall(b"STARTTLS\r\nNOOP\r\nNOOP\r\n")
        assert receive(sock, 14) == b"220 go ahead\r\n"
        with context.wrap_socket(sock, server_hostname="localhost") as tls:
            tls.sendall(b"QUIT\r\n")
            assert receive_all(tls) == b"221 bye\r\n"


def test_unix_echo_with_socat(example, tmp_path):
    socat = program("socat")
    path = str(tmp_path / "s")
    script = example("unix_echo", "--path", path)
    assert script.address == path
    result = run(socat, "-", f"UNIX-CONNECT:{path}", input=b"through socat")
    assert result.stdout == b"through socat"
    assert script.wait_for(r"user (\d+) connected").isdigit()


def test_broker(example):
    script = example("broker", "--port", "0")
    with connect(script) as one, connect(script) as two, connect(script) as three:
        for sock, topic in ((one, b"a"), (two, b"a"), (two, b"b")):
            sock.sendall(b"SUB %b\n" % topic)
            assert receive(sock, 3) == b"OK\n"
        three.sendall(b"PUB a to both\nPUB b to one\nPUB c\nPUB d to none\n")
        assert receive(three, 14) == b"SENT 2\nSENT 1\n"
        assert receive(three, 4) == b"ERR "
        assert receive(one, 11) == b"a: to both\n"
        assert receive(two, 21) == b"a: to both\nb: to one\n"
        two.sendall(b"UNSUB a\n")
        assert receive(two, 3) == b"OK\n"
        one.sendall(b"PUB a to itself\n")
        assert sorted(receive(one, 20).split(b"\n")) == [b"", b"SENT 1", b"a: to itself"]


def test_broker_sends_away_who_does_not_keep_up(example):
    script = example("broker", "--port", "0")
    text, count = b"x" * 16_000, 400
    with connect(script) as slow, connect(script) as quick, connect(script) as publisher:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        for sock in (slow, quick):
            sock.sendall(b"SUB a\n")
            assert receive(sock, 3) == b"OK\n"
        for _ in range(count):
            publisher.sendall(b"PUB a %b\n" % text)
            assert receive(quick, len(text) + 4) == b"a: %b\n" % text
        said = receive(publisher, 7 * count).split()
        assert said[1] == b"2"  # both got the first one
        assert said[-1] == b"1"  # the last went to one only


@needs_tls
def test_device_gateway(example, tmp_path, authority):
    for name, pem in (("cert", authority.chain), ("key", authority.key), ("ca", authority.ca_pem)):
        (tmp_path / name).write_bytes(pem)
    operators = str(tmp_path / "operators")
    script = example(
        *("device_gateway", "--port", "0", "--operators", operators),
        *("--certfile", str(tmp_path / "cert"), "--keyfile", str(tmp_path / "key")),
        *("--ca-certs", str(tmp_path / "ca")),
    )
    context = authority.client_context()
    authority.ca.issue_cert("d@example.org", common_name="thermometer").configure_cert(context)
    with (
        connect(script) as sock,
        context.wrap_socket(sock, server_hostname="localhost") as device,
        socket.socket(socket.AF_UNIX) as operator,
    ):
        device.sendall(b'\0\x0e{"celsius": 7}')
        assert receive(device, 14) == b'\0\x0c{"taken": 1}'
        script.wait_for(r"(thermometer {'celsius': 7})")
        operator.settimeout(10)
        operator.connect(operators)
        operator.sendall(b"LIST\nPUSH thermometer reboot now\nPUSH nobody x\n")
        assert receive(operator, 15) == b"thermometer\nOK\n"
        assert receive(operator, 19) == b"ERR nobody: KeyErro"
        assert receive(device, 27) == b'\0\x19{"command": "reboot now"}'
    refused = pytest.raises(ssl.SSLError, match="CERTIFICATE_REQUIRED")
    with connect(script) as sock, refused:
        with authority.client_context().wrap_socket(sock, server_hostname="localhost") as stranger:
            stranger.recv(1)


@pytest.mark.parametrize("way", [[], ["--rewritten"]], ids=["as-it-was", "rewritten"])
def test_migrated(example, way):
    script = example("migrated", "--port", "0", *way)
    with connect(script) as sock:
        sock.sendall(b"hel")
        sock.sendall(b"lo\nthere\n")
        assert receive(sock, 12) == b"HELLO\nTHERE\n"


def test_the_readmes_benchmark_client(serve):
    """redis-benchmark against a PING handler: every answer right, none lost."""
    from thousand_island_sync import Handler

    class Ping(Handler):
        def handle_data(self, data, socket):
            reply = b"+PONG\r\n" * data.count(b"PING")
            socket.send(reply or b"-ERR unknown\r\n" * data.count(b"CONFIG"))

    tool = program("redis-benchmark")
    server = serve(Ping)
    result = run(
        tool, "-p", str(server.local_port), "-t", "ping_mbulk", "-c", "20", "-n", "5000", "--csv"
    )
    assert result.returncode == 0, result.stderr
    assert b"PING_MBULK" in result.stdout
    assert server.info().accepted_total >= 20
