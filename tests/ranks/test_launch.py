"""Ranks as real gloo processes: the ops over gloo, and every way a rank can fail."""

import math
import os
import signal
import socket
import subprocess
import sys
import time

import pytest
import torch
from support import launch_jobs
from support.repository import ROOT

from graphshard.errors import GraphshardError
from graphshard.ranks.launch import launch
from graphshard.shard.halo import HaloPlan

pytestmark = pytest.mark.processes


def three_ranks():
    """A path 0-1-2-3 on three ranks, the last of them empty; (owned, plan) per rank."""

    def plan(n, h, index, send, recv):
        return HaloPlan(n, h, torch.tensor(index, dtype=torch.int64), send, recv)

    return [
        ([0, 1], plan(2, 1, [1], (0, 1, 0), (0, 1, 0))),
        ([2, 3], plan(2, 1, [0], (1, 0, 0), (1, 0, 0))),
        ([], plan(0, 0, [], (0, 0, 0), (0, 0, 0))),
    ]


def test_results_come_in_rank_order_with_the_environment_of_now(monkeypatch):
    for value in ("first", "second"):  # the forkserver outlives the first
        monkeypatch.setenv("GRAPHSHARD_TEST", value)
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        assert launch(launch_jobs.who_am_i, 2, ("x",)) == [(r, 2, "x", value, 1) for r in range(2)]


@pytest.mark.versions
def test_ops_over_gloo_equal_one_machine():
    world = three_ranks()
    features = torch.randn(4, 5, dtype=torch.float64)
    results = launch(launch_jobs.exchange, 3, (world, features))

    x = features.clone().requires_grad_()
    weight = torch.full((5,), 2.0, dtype=torch.float64, requires_grad=True)
    copies = torch.tensor([1.0, 2.0, 2.0, 1.0], dtype=torch.float64)[:, None]
    reduced = x * weight * copies
    loss = (reduced**2).sum()
    loss.backward()

    torch.testing.assert_close(results[0]["synced"], features[[0, 1, 2]], rtol=0, atol=0)
    torch.testing.assert_close(results[1]["synced"], features[[2, 3, 1]], rtol=0, atol=0)
    for (owned, _), result in zip(world, results, strict=True):
        torch.testing.assert_close(result["reduced"], reduced[owned].detach())
        torch.testing.assert_close(result["highest"], features[owned], rtol=0, atol=0)
        torch.testing.assert_close(result["loss"], loss.detach())
        torch.testing.assert_close(result["x_grad"], x.grad[owned])  # type: ignore[index]
        torch.testing.assert_close(result["weight_grad"], weight.grad)


def test_gloo_takes_every_dtype():
    dtypes = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.float16]
    dtypes += [torch.bfloat16, torch.float32, torch.float64, torch.float8_e4m3fn, torch.uint16]
    assert all(all(right) for right in launch(launch_jobs.every_dtype, 2, (dtypes,)))


def test_objects_are_gathered():
    assert launch(launch_jobs.gather_objects, 2) == [[{"rank": 0}, {"rank": 1}]] * 2


def test_a_rank_that_raises_is_named_with_its_error():
    with pytest.raises(GraphshardError, match=r"rank 1 of 3 failed: ValueError: planted on 1"):
        launch(launch_jobs.raise_on, 3, (1,))


@pytest.mark.parametrize(("how", "said"), [("kill", r"signal 9 \(SIGKILL\)"), ("exit", "exited with code 3")])
def test_a_rank_that_dies_is_named(how, said):
    with pytest.raises(GraphshardError, match=f"rank 2 of 3 died: .*{said}"):
        launch(launch_jobs.die_on, 3, (2, how))


def test_a_rank_that_never_comes_ends_the_job():
    said = r"^rank 1 of 2 did not come to barrier, where rank 0 waited .*rank 1 was at File .*launch_jobs.*never_come"
    with pytest.raises(GraphshardError, match=said):
        launch(launch_jobs.never_come, 2, (1,), timeout=2)


def test_a_rank_that_is_stopped_is_named_and_ended():
    begin = time.monotonic()
    with pytest.raises(
        GraphshardError, match=r"^rank 1 of 3 did not come .*rank 1 does not answer: it is stopped"
    ):
        launch(launch_jobs.stop_on, 3, (1,), timeout=2)
    assert time.monotonic() - begin < 60


def test_a_rank_that_runs_too_long_is_stopped_with_its_traceback():
    with pytest.raises(GraphshardError, match=r"(?s)rank 0 of 1 was stopped.*in never_come"):
        launch(launch_jobs.never_come, 1, (0,), timeout=1)


def test_a_run_may_last_longer_than_one_collective_may_wait():
    assert launch(launch_jobs.work_for, 2, (3.0,), timeout=2, run_timeout=math.inf) == [0, 1]


def test_what_cannot_be_sent_is_refused_before_anything_starts():
    with pytest.raises(GraphshardError, match="module-level function"):
        launch(lambda: None, 2)
    with pytest.raises(GraphshardError, match="at least one rank"):
        launch(launch_jobs.gather_objects, 0)


def test_the_callers_signals_and_environment_are_left_alone():
    handlers = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    environment = dict(os.environ)
    launch(launch_jobs.gather_objects, 1)
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert dict(os.environ) == environment


@pytest.mark.skipif(not os.path.exists("/proc/net/tcp"), reason="reads the sockets from Linux' /proc")
def test_nobody_else_can_connect():
    with socket.socket() as open_to_all:  # what the job would find
        open_to_all.bind(("0.0.0.0", 0))
        open_to_all.listen()
        assert launch_jobs.listening_beyond_loopback([]) == ["00000000"]
    assert launch(launch_jobs.listening_beyond_loopback, 2, ([os.getpid()],)) == [[], []]


def test_a_variable_of_the_caller_does_not_open_a_rank(monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0")
    monkeypatch.setenv("MASTER_ADDR", "0.0.0.0")
    assert launch(launch_jobs.listening_beyond_loopback, 2, ([],)) == [[], []]


SCRIPT = """
from graphshard.ranks.launch import launch
from support import launch_jobs
{guard}
    print([r["rank"] for r in launch(launch_jobs.gather_objects, 2)[0]])
"""


def run_python(*args, stdin="", **variables):
    environment = os.environ | {"PYTHONPATH": str(ROOT / "tests")} | variables
    return subprocess.run(
        [sys.executable, "-W", "error", *args],
        input=stdin,
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_a_script_without_a_file_can_launch_and_success_is_quiet():
    done = run_python("-", stdin=SCRIPT.format(guard="if True:"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "[0, 1]\n", "")


def test_a_script_without_a_main_guard_is_told_so(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(guard="if True:"))
    done = run_python(str(script))
    assert done.returncode == 1
    assert "could not start" in done.stderr
    assert 'if __name__ == "__main__":' in done.stderr


def test_a_long_path_for_temporary_files(tmp_path):
    """A socket's path must be short, and the forkserver's would stand there."""
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(guard='if __name__ == "__main__":'))
    done = run_python(str(script), TMPDIR=str(folder))
    assert (done.returncode, done.stdout) == (0, "[0, 1]\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_no_rank_outlives_the_process_that_launched_it(tmp_path, number, code):
    script = tmp_path / "script.py"
    job = "import math; launch(launch_jobs.wait_for_ever, 2, run_timeout=math.inf)\n"
    script.write_text(
        SCRIPT.format(guard='if __name__ == "__main__":').partition("    print")[0] + f"    {job}"
    )
    launching = subprocess.Popen(
        [sys.executable, str(script)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "tests"), *sys.path])},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert launching.stdout is not None
    assert [launching.stdout.readline() for _ in range(2)] == ["running\n"] * 2
    launching.send_signal(number)
    launching.communicate(timeout=60)  # the output ends when the last rank does
    assert launching.returncode == code
