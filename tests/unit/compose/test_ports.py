"""Ports are free, remembered, and below the range that the kernel hands out."""

import socket
import threading
from pathlib import Path

import pytest

from compose.ports import HIGHEST, NoFreePortError, choose_ports, one_start_at_a_time


@pytest.fixture
def taken_port():
    """Give a loopback port that something listens on."""
    with socket.socket() as server:
        for port in range(20000, HIGHEST):
            try:
                server.bind(("127.0.0.1", port))
            except OSError:
                continue
            server.listen()
            yield port
            return


def test_taken_port_moves_up_to_the_next_free_one(tmp_path: Path, taken_port: int):
    """Two clones started one after the other do not fight over a port."""
    chosen = choose_ports({"api": taken_port}, tmp_path / "ports.json")
    assert taken_port < chosen["api"] <= HIGHEST


def test_two_names_never_get_the_same_port(tmp_path: Path):
    """A setting that names one port twice still gives two."""
    chosen = choose_ports({"api": 21000, "flower": 21000}, tmp_path / "ports.json")
    assert chosen["api"] != chosen["flower"]


def test_moved_port_is_kept_for_the_next_start(tmp_path: Path, taken_port: int):
    """A bookmark still works after a restart."""
    remembered = tmp_path / "ports.json"
    first = choose_ports({"api": taken_port}, remembered)
    assert choose_ports({"api": taken_port}, remembered) == first


def test_changed_setting_wins_over_the_remembered_port(tmp_path: Path):
    """What was remembered belongs to the old setting."""
    remembered = tmp_path / "ports.json"
    choose_ports({"api": 22000}, remembered)
    assert choose_ports({"api": 23000}, remembered)["api"] >= 23000


def test_no_free_port_is_an_error_that_names_the_range(tmp_path: Path, monkeypatch):
    """The message says what was looked for."""
    monkeypatch.setattr("compose.ports._is_free", lambda port, taken: False)
    with pytest.raises(NoFreePortError, match="from 32000 to 32767"):
        choose_ports({"api": 32000}, tmp_path / "ports.json")


def test_second_start_says_that_it_waits_and_goes_on_once_the_first_is_up(monkeypatch, tmp_path):
    """Nobody stares at a silent terminal."""
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    said, waiting, up = [], threading.Event(), threading.Event()

    def start_second() -> None:
        with one_start_at_a_time(lambda line: (said.append(line), waiting.set())):
            up.set()

    with one_start_at_a_time(said.append):
        second = threading.Thread(target=start_second)
        second.start()
        assert waiting.wait(10)
        assert not up.is_set()
    second.join(10)
    assert up.is_set()
    assert said == ["another stack is starting on this machine: waiting until it is up"]
