"""What the benchmarks say of their figures; the figures are no matter of tests."""

import importlib.util
import json

import pytest

from benchmarks import load, report, work
from benchmarks.peers import PEERS
from benchmarks.scenarios import Scenario, scenarios
from benchmarks.targets import METRICS, TARGETS, Target


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    return {one.name: one for one in scenarios(tmp_path_factory.mktemp("files"))}


def test_every_server_that_a_scenario_names_is_there(everything):
    for scenario in everything.values():
        assert set(scenario.peers) <= set(PEERS), scenario.name
        assert scenario.peers[0] == "ours"
    for module, _ in PEERS.values():
        assert importlib.util.find_spec(f"benchmarks.peers.{module}"), module


@pytest.mark.parametrize("target", TARGETS, ids=Target.words)
def test_every_target_is_of_something_that_is_measured(target, everything):
    scenario = everything[target.scenario]
    assert target.mine in scenario.peers
    assert all(peer in scenario.peers for peer in target.peer.split("|") if peer)
    assert target.metric in METRICS


def results(**peers):
    return {"a": {name: [{"rate": rate} for rate in rates] for name, rates in peers.items()}}


def test_a_ratio_is_taken_within_each_turn():
    target = Target("a", "rate", 1.0, "theirs")
    # The machine was twice as fast in the second turn: the ratio is the same.
    assert target.measured(results(ours=[10.0, 20.0], theirs=[20.0, 40.0])) == 0.5


def test_the_best_of_several_peers_is_the_one_to_beat():
    found = results(ours=[10.0], one=[5.0], two=[20.0])
    assert Target("a", "rate", 1.0, "one|two", least=True).measured(found) == 0.5
    assert Target("a", "rate", 1.0, "one|two").measured(found) == 2.0


def test_what_was_not_measured_is_not_judged():
    assert Target("a", "rate", 1.0, "theirs").measured(results(ours=[1.0])) is None
    assert Target("b", "rate", 1.0).measured(results(ours=[1.0])) is None
    assert Target("a", "p99_ms", 1.0).measured(results(ours=[1.0])) is None


@pytest.mark.parametrize(
    ("least", "met"), [(False, [True, True, False]), (True, [False, True, True])]
)
def test_a_bound_is_met_or_not(least, met):
    target = Target("a", "rate", 1.0, least=least)
    assert [target.met(value) for value in (0.9, 1.0, 1.1)] == met


def test_the_report_has_a_table_of_each_scenario_and_says_what_is_missing(tmp_path):
    one = Scenario("a", "what is done", ("ours", "theirs"), lambda server, seconds: {})
    found = {
        "a": {
            "ours": [{"cpu_us": 10.0, "rate": 5.0}, {"cpu_us": 30.0, "rate": 7.0}],
            "theirs": [{"cpu_us": 40.0, "rate": 1.0}, {"cpu_us": 60.0, "rate": 3.0}],
        }
    }
    report.write(tmp_path, {"Python": "3"}, [one], found, ["a, another: it broke"])
    text = (tmp_path / "report.md").read_text()
    assert "## what is done" in text
    assert "| ours | 20.0 | 6 | 1.00 |" in text
    assert "| theirs | 50.0 | 2 | 0.38 |" in text
    assert "**Not measured:** a, another: it broke" in text
    assert json.loads((tmp_path / "report.json").read_text())["results"] == found


def test_wrong_answers_of_a_program_are_errors():
    with pytest.raises(load.Wrong):
        load._parse("Error from server: ERR unknown")
    with pytest.raises(load.Wrong):
        load._parse_ab("Failed requests:        3\nRequests per second:    10.0\n")


def test_requests_are_answered_alike_by_all():
    assert work.answer(b"*1\r\n$4\r\nPING\r\n" * 3) == work.PONG * 3
    assert work.parse(b"GET /file/1024 HTTP/1.1\r\nHost: x\r\n\r\n") == ("file", 1024, True)
    assert work.parse(b"GET /send/5 HTTP/1.0\r\n\r\n") == ("send", 5, False)
