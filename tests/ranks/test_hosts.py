"""Ranks on two machines: two network namespaces of this one, with addresses and a link of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from graphshard.errors import GraphshardError
from graphshard.ranks.interface import choose_interface

TORCHRUN = {"LOCAL_WORLD_SIZE": "1", "WORLD_SIZE": "2"}


def test_the_interface_is_that_of_the_way_to_rank_0() -> None:
    """Known, given or needless: nothing is changed."""
    for given in (
        {},
        {"MASTER_ADDR": "10.0.0.1", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2"},
        TORCHRUN | {"MASTER_ADDR": "10.0.0.1", "GLOO_SOCKET_IFNAME": "mine"},
    ):
        environ = dict(given)
        choose_interface(environ)
        assert environ == given


def test_an_address_that_no_other_machine_can_reach_is_said() -> None:
    with pytest.raises(GraphshardError, match=r"knows rank 0's address 'localhost' as 127\.0\.0\.1"):
        choose_interface(TORCHRUN | {"MASTER_ADDR": "localhost"})
    with pytest.raises(GraphshardError, match=r"there is no way to rank 0's address 'nowhere\.invalid'"):
        choose_interface(TORCHRUN | {"MASTER_ADDR": "nowhere.invalid"})


@dataclass(frozen=True)
class Host:
    """A network namespace."""

    name: str
    address: str
    interface: str

    def start(self, *command: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["ip", "netns", "exec", self.name, *command],
            env=os.environ | {"PYTHONWARNINGS": "ignore"} | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


@pytest.fixture
def hosts() -> Iterator[list[Host]]:
    """Two of them, connected; each has a loopback of its own."""
    if shutil.which("ip") is None:
        pytest.skip("needs `ip` (iproute2)")
    number = os.getpid()
    found = [Host(f"gs{number}-{i}", f"10.77.0.{i + 1}", f"gs{number % 10**6}-{i}") for i in range(2)]
    try:
        for host in found:
            _ip("netns", "add", host.name)
        a, b = (host.interface for host in found)
        _ip("link", "add", a, "netns", found[0].name, "type", "veth", "peer", b, "netns", found[1].name)
        for host in found:
            _ip("-n", host.name, "addr", "add", f"{host.address}/24", "dev", host.interface)
            for name in ("lo", host.interface):
                _ip("-n", host.name, "link", "set", name, "up")
    except subprocess.CalledProcessError as error:
        _remove(found)
        pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
    yield found
    _remove(found)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def _remove(hosts: list[Host]) -> None:
    for host in hosts:
        subprocess.run(["ip", "netns", "del", host.name], check=False, capture_output=True)


def trained_on(hosts: list[Host], *options: str, **variables: str) -> dict[str, Any]:
    """What ``graphshard train`` prints as rank 0 of a rank on each host."""
    train = ("-m", "graphshard.tools.cli.app", "train", "--json", *options)
    running = [
        host.start(
            *(sys.executable, "-m", "torch.distributed.run", "--nnodes", str(len(hosts))),
            *("--node-rank", str(i), "--nproc-per-node", "1"),
            *("--master-addr", hosts[0].address, "--master-port", "29511", *train),
            **variables,
        )
        for i, host in enumerate(hosts)
    ]
    try:
        said = [process.communicate(timeout=240) for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], said[0][1] + said[1][1]
    found: dict[str, Any] = json.loads(said[0][0])
    return found


@pytest.mark.processes
def test_two_machines_train_as_one(hosts: list[Host]) -> None:
    """Each cuts the graph for itself, and nothing says which interface to take."""
    command = [sys.executable, "-m", "graphshard.tools.cli.app"]
    options = ["--epochs", "4", "--dtype", "float64"]
    alone = subprocess.run(
        [*command, "train", "--json", "--ranks", "1", *options], capture_output=True, text=True, check=True
    )
    expected = [epoch["loss"] for epoch in json.loads(alone.stdout)["epochs"]]
    found = trained_on(hosts, *options)
    assert [epoch["loss"] for epoch in found["epochs"]] == pytest.approx(expected, rel=1e-9)


ALL_REDUCE_UNTIL_CUT = """
import time
import torch
import torch.distributed as dist
import graphshard
from graphshard.ranks.keepalive import keep_alive

graphshard.init()
assert keep_alive(idle=1, interval=1, probes=2) > 0
value = torch.ones(1)
dist.all_reduce(value)
print("met", flush=True)
began = time.monotonic()
try:
    while time.monotonic() - began < 100:
        dist.all_reduce(value)
        time.sleep(0.05)
except RuntimeError as error:
    print(f"{time.monotonic() - began:.1f}", " ".join(str(error).split()), flush=True)
"""


@pytest.mark.processes
def test_a_cut_link_is_noticed(hosts: list[Host]) -> None:
    """Long before the timeout of a collective (30 minutes) is over."""
    shared = {
        "MASTER_ADDR": hosts[0].address,
        "MASTER_PORT": "29512",
        "LOCAL_WORLD_SIZE": "1",
        "WORLD_SIZE": "2",
    }
    running = [
        host.start(sys.executable, "-c", ALL_REDUCE_UNTIL_CUT, **shared, RANK=str(i), LOCAL_RANK="0")
        for i, host in enumerate(hosts)
    ]
    try:
        for process in running:
            assert process.stdout is not None
            assert process.stdout.readline() == "met\n"
        _ip("-n", hosts[1].name, "link", "set", hosts[1].interface, "down")
        said = [process.communicate(timeout=60) for process in running]
    finally:
        for process in running:
            process.kill()
    for out, errors in said:
        seconds, _, error = out.partition(" ")
        assert out, errors
        assert float(seconds) < 30
        assert "No route to host" in error or "Connection timed out" in error, error
