"""Loading certificates again, without a server."""

import logging
import threading

import pytest

from tests.support import break_start_off, eventually, running
from thousand_island_sync import ConfigError
from thousand_island_sync._server.certificate_watch import CertificateWatch


@pytest.fixture
def loads():
    """A loader that counts, and raises what it is told to."""

    class Loads:
        count, error = 0, None

        def __call__(self):
            self.count += 1
            if self.error is not None:
                raise self.error

    return Loads()


def test_it_loads_when_asked(loads):
    with CertificateWatch(loads, []) as watch:
        for number in range(1, 4):
            watch.ask()
            assert eventually(lambda n=number: loads.count == n)


def test_it_loads_when_a_file_changes_and_not_otherwise(loads, tmp_path):
    first, second = tmp_path / "cert", tmp_path / "key"
    first.write_bytes(b"1")
    with CertificateWatch(loads, [str(first), str(second)], 0.005) as watch:
        second.write_bytes(b"appears")
        assert eventually(lambda: loads.count == 1)
        first.write_bytes(b"longer")
        assert eventually(lambda: loads.count == 2)
        second.unlink()
        assert eventually(lambda: loads.count == 3)
        looked = watch._stamps
        looks = []
        watch._stamps = lambda: looks.append(1) or looked()
        assert eventually(lambda: len(looks) > 3)
        assert loads.count == 3


def test_no_thread_is_left_where_ctrl_c_broke_the_start_off(loads, monkeypatch):
    break_start_off(monkeypatch, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt), CertificateWatch(loads, []):
        pass
    # `no_leaks` sees the thread.


def test_a_log_handler_that_stands_does_not_hold_up_the_end(loads):
    stands, goes_on = threading.Event(), threading.Event()

    class Stands(logging.Handler):
        def emit(self, record):
            stands.set()
            goes_on.wait(20)

    logger, handler = logging.getLogger("thousand_island_sync"), Stands()
    loads.error = ConfigError("certfile: bad")
    logger.addHandler(handler)
    try:
        with running(goes_on.wait, within=20):
            watch = CertificateWatch(loads, [])
            with watch:
                watch.ask()
                assert stands.wait(5)
            goes_on.set()
        watch._thread.join(5)
    finally:
        logger.removeHandler(handler)


@pytest.mark.parametrize("error", [ConfigError("certfile: bad"), RuntimeError("a bug")])
def test_what_goes_wrong_is_logged_once_and_it_goes_on(error, loads, tmp_path, caplog):
    file = tmp_path / "cert"
    loads.error = error
    with caplog.at_level(logging.INFO), CertificateWatch(loads, [str(file)], 0.005):
        file.write_bytes(b"bad")
        assert eventually(lambda: "old ones stay in use" in caplog.text)
        loads.error = None
        file.write_bytes(b"better now")
        assert eventually(lambda: "certificates reloaded" in caplog.text)
    assert caplog.text.count("old ones stay in use") == 1
