"""The pytest plugin: the fixture `thousand_island`, in runs of pytest of their own."""

import importlib.metadata
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

HEAD = """
    import sys, threading
    import pytest

    def echo():
        from thousand_island_sync import Handler

        class Echo(Handler):
            def handle_data(self, data, socket):
                socket.send(data)

        return Echo
"""


#: Where the package is installed, pytest finds the plugin by itself.
FOUND = importlib.metadata.entry_points(group="pytest11", name="thousand_island")
ASKED_FOR = () if FOUND else ("-p", "_thousand_island_pytest")


@pytest.fixture
def run(tmp_path):
    """Runs pytest on a file of tests, with the plugin; gives what it printed and its exit code."""

    def run_them(tests, *arguments, path=ROOT, plugin=ASKED_FOR):
        (tmp_path / "test_it.py").write_text(textwrap.dedent(HEAD) + textwrap.dedent(tests))
        environment = {**os.environ, "PYTHONPATH": str(path), "PYTHONDONTWRITEBYTECODE": "1"}
        environment.pop("TESTS_SHARE", None)
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *plugin, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return done.stdout + done.stderr, done.returncode

    return run_them


def test_the_fixture_is_a_factory_of_started_servers(run):
    said, code = run("""
        def test_it(thousand_island):
            first = thousand_island(echo())
            second = thousand_island(echo(), name="second", read_timeout_ms=5_000)
            assert (first.status, second.status, second.name) == ("running", "running", "second")
            for server in (first, second):
                sock = server.connect()
                sock.sendall(b"x")
                assert sock.recv(1) == b"x"
    """)
    assert code == 0, said
    assert "1 passed" in said


def test_a_run_that_does_not_use_it_imports_nothing_of_ours(run):
    said, code = run(
        """
        def test_it():
            assert "_thousand_island_pytest" in sys.modules
            assert not [name for name in sys.modules if name.startswith("thousand_island_sync")]
            assert not [name for name in sys.modules if name in ("blinker", "OpenSSL")]
        """
    )
    assert code == 0, said


def test_the_checks_run_at_the_end_of_the_test(run):
    said, code = run("""
        def test_it(thousand_island):
            thousand_island(echo())
            threading.Thread(target=threading.Event().wait, args=(3,), name="forgotten").start()
    """)
    assert code == 1, said
    assert "1 passed, 1 error" in said
    assert "AssertionError: serve(Echo): a thread is left: 'forgotten'" in said


def test_what_is_expected_is_said_to_the_factory(run):
    said, code = run("""
        def test_it(thousand_island):
            from thousand_island_sync import Handler

            class Fails(Handler):
                def handle_data(self, data, socket):
                    raise KeyError(data)

            for options in ({"expect": KeyError}, {}):
                sock = thousand_island(Fails, name=f"server-{len(options)}", **options).connect()
                sock.sendall(b"x")
                assert sock.recv(1) == b""
    """)
    assert code == 1, said
    assert said.count("ERROR was logged: Fails.handle_data") >= 1
    assert "on thread server-0" in said


def test_the_last_one_made_is_looked_at_first_and_all_are(run):
    said, code = run("""
        def test_it(thousand_island, monkeypatch):
            from thousand_island_sync import ThousandIsland

            names = ["first", "second", "third"]
            stop = ThousandIsland.stop

            def note(self, *arguments):
                print("stopped", self.name)
                assert stop(self, *arguments)
                return False

            for name in names:
                thousand_island(echo(), name=name)
            ThousandIsland.stop = note
    """)
    assert code == 1, said
    assert [line for line in said.splitlines() if line.startswith("stopped")] == [
        "stopped third",
        "stopped second",
        "stopped first",
    ]
    assert said.count("stop() was False") >= 3


def test_with_ends_it_sooner_and_starts_nothing_anew(run):
    said, code = run("""
        def test_it(thousand_island):
            with thousand_island(echo()) as srv:
                assert srv.status == "running"
                sock = srv.connect()
            assert srv.status == "stopped"
            assert sock.fileno() == -1
            with pytest.raises(AssertionError, match="forgotten"):
                with thousand_island(echo()) as srv:
                    release = threading.Event()
                    thread = threading.Thread(target=release.wait, name="forgotten")
                    thread.start()
            release.set()
            thread.join()
    """)
    assert code == 0, said


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """What an installation has, without the C."""
    folder = tmp_path_factory.mktemp("site")
    for command in (["build_py", "--build-lib"], ["egg_info", "--egg-base"]):
        command = [sys.executable, "setup.py", "-q", *command, str(folder)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    return folder


def test_an_installation_has_the_plugin_and_the_kit(site, run):
    assert (site / "_thousand_island_pytest.py").is_file()
    assert (site / "thousand_island_sync" / "testing" / "hostile.py").is_file()
    said, code = run(
        """
        def test_it(thousand_island):
            import thousand_island_sync.testing

            assert thousand_island_sync.testing.__file__.startswith(sys.path[-1] or "/")
            sock = thousand_island(echo()).connect()
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
        """.replace('sys.path[-1] or "/"', repr(str(site))),
        path=site,
        plugin=(),
    )
    assert code == 0, said
    said, code = run("def test_it(thousand_island): pass", "--trace-config", path=site, plugin=())
    assert "_thousand_island_pytest" in said


def test_the_kit_needs_no_pytest():
    program = """
        import sys
        sys.modules["pytest"] = None
        from thousand_island_sync import Handler
        from thousand_island_sync.testing import call, serve
        class Echo(Handler):
            def handle_data(self, data, socket):
                socket.send(data)
        assert call(Echo, b"x").sent == b"x"
        with serve(Echo) as server:
            server.connect().sendall(b"x")
    """
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", textwrap.dedent(program)]
    subprocess.run(command, check=True, env=environment, timeout=60)


def test_the_package_itself_imports_nothing_of_the_kit():
    program = (
        "import sys, thousand_island_sync, thousand_island_sync.__main__;"
        "assert not [name for name in sys.modules if 'thousand_island_sync.testing' in name]"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, timeout=60)
