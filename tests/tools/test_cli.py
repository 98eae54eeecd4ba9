"""The command line as a user meets it: what it prints, what it writes, and how it fails."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.repository import SUPPORT
from typer.testing import CliRunner

import graphshard
from graphshard.check import Report, Row
from graphshard.errors import GraphshardError, ShardError
from graphshard.tools import output
from graphshard.tools.cli.app import app
from graphshard.tools.data.sources import load_data

MODELS = str(SUPPORT / "cli_models.py")


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    # Kept as it was: the commands set both.
    for name in ("PYTHONWARNINGS", "GRAPHSHARD_DEBUG"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def run(*args):
    return CliRunner().invoke(app, list(map(str, args)))


def result_of(*args):
    """The JSON document, after a run that succeeds."""
    done = run(*args, "--json")
    assert done.exit_code == 0, done.stderr
    return json.loads(done.stdout)


def sentence_of(*args):
    """What stderr says, after a run that fails as one should."""
    done = run(*args)
    assert done.exit_code == 1
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli") / "parts"
    graphshard.partition(load_data("karate"), 2).save(folder)
    return folder


def test_help_names_every_command():
    done = run("--help")
    assert done.exit_code == 0
    assert all(name in done.stdout for name in ("train", "diff", "verify", "partition"))


# ---- partition ---------------------------------------------------------------------------------------------


def test_partition_writes_shards_and_reports_them(tmp_path):
    found = result_of("partition", "karate", "--parts", 3, "--out", tmp_path / "parts")
    report = graphshard.partition(load_data("karate"), 3).report
    assert found.pop("seconds") > 0
    measured = ("seconds", "peak_memory")
    plain = {name: value for name, value in report.as_dict().items() if name not in measured}
    found.pop("peak_memory")
    assert found == {"data": "karate", "out": str(tmp_path / "parts")} | plain
    for rank in range(3):
        assert graphshard.load_shard(tmp_path / "parts", rank, 3).num_owned == report.owned[rank]


def test_partition_prints_a_table():
    done = run("partition", "karate", "--parts", 3)
    assert done.exit_code == 0
    assert "34 nodes, 156 edges in 3 parts" in done.stdout
    assert "edge cut      46 (29.5% of the edges)" in done.stdout
    rows = [line.split() for line in done.stdout.splitlines()[-3:]]
    assert rows == [["0", "12", "10", "59"], ["1", "11", "6", "48"], ["2", "11", "9", "49"]]


def test_partition_has_a_method_for_every_name():
    from graphshard.partitioning.methods import AUTO, METHODS
    from graphshard.tools.cli.partition import Method

    assert [method.value for method in Method] == [*METHODS, AUTO]
    found = result_of("partition", "karate", "--parts", 3, "--method", "auto")
    assert found["method"] in ("metis-volume", "metis")
    assert found["why"]
    assert "has no positions" in sentence_of("partition", "karate", "--method", "rcb")


def test_partition_cuts_a_folder_of_files(tmp_path):
    pytest.importorskip("numba")
    graph = load_data("karate")
    (tmp_path / "graph").mkdir()
    for name in ("edge_index", "x", "y"):
        np.save(tmp_path / "graph" / f"{name}.npy", graph[name].numpy())
    out = tmp_path / "parts"
    found = result_of("partition", tmp_path / "graph", "--out", out, "--memory", "8GiB")
    assert found["method"] == "multilevel"
    shards = graphshard.partition(
        {name: graph[name] for name in ("edge_index", "x", "y")}, 2, method="multilevel"
    )
    assert graphshard.load_shard(out, 1, 2).partition_id == shards[1].partition_id
    said = sentence_of("partition", tmp_path / "graph", "--out", out, "--memory", "1MiB")
    assert "cutting 34 nodes from files takes" in said
    for wrong in (("--out", out, "--method", "metis"), ("--out", out, "--memory", "lots"), ()):
        assert run("partition", tmp_path / "graph", *wrong).exit_code == 2


# ---- verify ------------------------------------------------------------------------------------------------


def test_verify_gives_a_report_for_each_number_of_ranks():
    found = result_of("verify", f"{MODELS}:GivesLoss", "--ranks", "2,3", "--simulate", "--mode", "eval")
    assert found["passed"]
    assert [(r["num_parts"], r["transport"], r["dtype"]) for r in found["runs"]] == [
        (2, "threads", "float64"),
        (3, "threads", "float64"),
    ]
    assert {row["mode"] for row in found["runs"][0]["rows"]} == {"eval"}


@pytest.mark.processes
def test_verify_uses_processes_and_prints_a_line_for_each_kind():
    done = run("verify", "--mode", "eval", "--ranks", 2)
    assert done.exit_code == 0, done.stderr
    kinds = [line.split("  ")[0] for line in done.stdout.splitlines()[1:8]]
    again = ["gradient, second step", "output, second step"]
    assert sorted(kinds) == sorted(
        ["gradient", "halo sync", "input gradient", "output", "streamed sum", *again]
    )
    assert "values on 2 ranks (processes, float64)" in done.stdout.splitlines()[8]


@pytest.mark.parametrize("everything", [False, True])
def test_verify_prints_failures_and_exits_with_1(everything, monkeypatch):
    row = Row("train", "gradient", "conv.weight", 0.5, 0.25, 2.0, 1e-9, 34)
    report = Report(3, "float64", "threads", [row, replace(row, name="fine", relative=0.0)])
    monkeypatch.setattr(graphshard, "verify", lambda *args, **kwargs: report)
    done = run("verify", *(["--all"] if everything else []))
    assert done.exit_code == 1
    assert "conv.weight" in done.stdout
    assert ("fine" in done.stdout) == everything
    assert "FAIL (1 of 2)" in done.stdout


# ---- train -------------------------------------------------------------------------------------------------


@pytest.mark.versions
@pytest.mark.processes
def test_train_equals_one_machine_with_and_without_dropout():
    found = result_of("train", "--epochs", 10, "--dtype", "float64", "--compare")
    assert (found["target"], found["data"], found["ranks"]) == ("gcn", "karate", 2)
    assert len(found["epochs"]) == 10
    assert found["final"] == found["epochs"][-1]
    assert found["final"]["loss"] < found["epochs"][0]["loss"]
    assert found["final"]["accuracy"].keys() == {"train", "test"}
    assert found["final"]["halo_bytes"] > 0
    assert found["passed"]
    compared = [(c["reference"], c["dropout"]) for c in found["comparisons"]]
    assert compared == [("one rank", True), ("one rank", False), ("PyTorch", False)]
    assert all(c["loss"] < 1e-12 and c["weights"] < 1e-10 for c in found["comparisons"])
    assert all(c["accuracy"][0] == c["accuracy"][1] for c in found["comparisons"])


@pytest.mark.processes
def test_a_run_goes_on_on_another_number_of_ranks(tmp_path):
    kept = ("train", "gcn", "karate", "--dtype", "float64", "--checkpoint", tmp_path / "run", "--every", 4)
    whole = result_of(
        "train", "gcn", "karate", "--dtype", "float64", "--epochs", 9, "--save", tmp_path / "w.pt"
    )
    result_of(*kept, "--epochs", 5)
    assert "holds checkpoints of a run: --resume goes on" in sentence_of(*kept, "--epochs", 9)
    found = result_of(*kept, "--epochs", 9, "--resume", "--ranks", 3)
    losses = [[epoch["loss"] for epoch in one["epochs"]] for one in (found, whole)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    steps = sorted(int(path.name.split("-")[1]) for path in (tmp_path / "run").iterdir())
    assert steps == [5, 8, 9]
    assert all(value.dtype == torch.float64 for value in torch.load(tmp_path / "w.pt").values())


@pytest.mark.processes
def test_train_reads_shards_and_prints_a_summary(parts):
    done = run("train", f"{MODELS}:GivesLoss", "karate", "--shards", parts, "--epochs", 3, "--compare")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith(f"{MODELS}:GivesLoss on {parts}: 3 epochs on 2 ranks, float32\n")
    assert "\nsent      " in done.stdout
    assert "\naccuracy" not in done.stdout  # forward gives no logits
    assert "\none rank, dropout on " in done.stdout
    assert "not compared with PyTorch, which draws dropout masks in the order of rows" in done.stdout


@pytest.mark.processes
def test_train_fails_where_a_curve_differs(monkeypatch):
    monkeypatch.setattr("graphshard.tools.training.comparison.TOLERANCE", -1.0)
    done = run("train", "--ranks", 1, "--epochs", 1, "--dropout", 0, "--dtype", "float64", "--compare")
    assert done.exit_code == 1
    assert "FAIL: a loss curve differs" in done.stdout


@pytest.mark.versions
@pytest.mark.processes
def test_train_is_a_rank_under_torchrun(parts):
    args = ["--nproc-per-node", "2", "-m", "graphshard.tools.cli.app", "train", "--epochs", "4", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *args, "--shards", str(parts)],
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)  # of rank 0 alone
    assert found["ranks"] == 2
    local = result_of("train", "--epochs", 4, "--shards", parts)
    assert [e["loss"] for e in found["epochs"]] == [e["loss"] for e in local["epochs"]]


# ---- failures ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("cached", "has cached=True"),
        ("Branches", "cli_models.py:28: `if x.sum() > 0:`"),
        ("NoRule", "aten.fft_rfft has no placement rule"),
        ("number", "is a int: give an nn.Module"),
        ("gone", "has no 'gone'; it has "),
    ],
)
def test_a_model_that_is_refused_is_said_in_one_sentence(model, said):
    assert said in sentence_of("verify", f"{MODELS}:{model}", "--simulate")


@pytest.mark.processes
def test_a_refusal_on_the_ranks_is_said_in_one_sentence():
    assert sentence_of("train", f"{MODELS}:NoRule", "--epochs", 1).startswith("aten.fft_rfft has no")


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("verify", "gone.py:Net"), "there is no file gone.py"),
        (("verify", "gcn", "gone.npz"), "no file gone.npz"),
        (("train", "--shards", "gone"), "there is no directory gone"),
        (("partition", "nonsense"), "no data source 'nonsense'"),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(args, said):
    assert said in sentence_of(*args)


def test_an_edge_past_the_nodes_is_said_in_one_sentence(tmp_path):
    file = tmp_path / "graph.npz"
    np.savez(file, x=np.ones((3, 2)), y=np.zeros(3, int), edge_index=np.array([[0, 1], [1, 3]]))
    assert "edge_index[1, 1] is 3, but the graph has 3 nodes" in sentence_of("partition", file)
    assert "edge_index[1, 1] is 3" in sentence_of("train", "gcn", file)


@pytest.mark.processes
def test_shards_for_another_number_of_ranks_are_refused(parts):
    said = sentence_of("train", "--shards", parts, "--ranks", 1)
    assert "was made for 2 ranks, this job has 1: run `graphshard partition` again with --parts 1" in said


def test_passes_can_be_chosen():
    """``--plain`` leaves the user's own gathers, ``--without`` and ``--with`` change one pass each."""
    plain = run("diff", "gcn", "karate", "--plain").stdout
    assert "edge_structure" not in plain
    assert "index_add = index_add(" in plain
    assert (
        run("diff", "gcn", "karate", "--plain", "--with", "lower_aggregations").stdout.count(
            " = edge_structure("
        )
        == 1
    )
    whole = run("diff", "gcn", "karate").stdout
    assert "bucketed_inputs" in whole
    assert "bucketed_inputs" not in run("diff", "gcn", "karate", "--without", "bucket_gradients").stdout
    for options in (("--plain",), ("--without", "sort_edges", "--with", "overlap_halo_syncs")):
        assert result_of("verify", "gat", "--simulate", "--ranks", 2, "--mode", "train", *options)["passed"]


@pytest.mark.processes
def test_training_takes_the_chosen_passes(capfd):
    fast, plain = (result_of("train", "--epochs", 3, *options) for options in ((), ("--plain",)))
    assert fast["final"]["loss"] == pytest.approx(plain["final"]["loss"], rel=1e-5)
    assert fast["epochs"][-1]["halo_bytes"] < plain["epochs"][-1]["halo_bytes"]


@pytest.mark.processes
def test_a_flipped_byte_is_found_and_its_rank_named(tmp_path):
    graphshard.partition(load_data("karate"), 2).save(tmp_path / "parts")
    file = next((tmp_path / "parts").glob("rank-00001-*"))
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    said = sentence_of("train", "--shards", tmp_path / "parts")
    assert said == f"rank 1 of 2 failed: {file} is damaged: its checksum does not fit the manifest"


@pytest.mark.parametrize(
    "args",
    [
        ("verify", "--ranks", "0"),
        ("verify", "--ranks", "2;3"),
        ("diff", "--without", "go_faster"),
        ("train", "--shards", "parts", "--compare"),
        ("train", "gcn", "karate", "--shards", "parts"),
        ("train", "--epochs", "0"),
        ("partition",),
        ("nonsense",),
    ],
)
def test_wrong_usage_exits_with_2(args):
    done = run(*args)
    assert done.exit_code == 2
    assert "Traceback" not in done.stderr


def test_other_data_than_the_shards_is_refused(parts):
    from graphshard.tools.cli.train import _compare

    with pytest.raises(GraphshardError, match=r"holds another graph \(34 nodes, 156 edges\)"):
        _compare(None, [], load_data("sbm:nodes=50"), parts)  # type: ignore[arg-type]


def test_debug_shows_the_traceback():
    done = run("--debug", "partition", "nonsense")
    assert done.exit_code == 1
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: there is no data source")


def test_an_interrupt_and_an_unexpected_error_leave_no_traceback(monkeypatch):
    def raise_(error):
        raise error

    monkeypatch.setattr(graphshard, "partition", lambda *args, **kwargs: raise_(KeyboardInterrupt()))
    done = run("partition", "karate")
    assert (done.exit_code, done.stderr.strip()) == (130, "interrupted")
    monkeypatch.setattr(graphshard, "partition", lambda *args, **kwargs: raise_(IndexError("3 of\n2")))
    said = sentence_of("partition", "karate")
    assert said == "IndexError: 3 of 2 (unexpected: `graphshard --debug` shows where)"


def test_a_ranks_error_is_one_sentence():
    wall = '\n\nTraceback (most recent call last):\n  File "x"\nStopped without an error of their own: none'
    for name, said in (("ShardError", "rank 1 of 2 failed: bad file"), ("CaptureError", "bad file")):
        assert output.sentence(GraphshardError(f"rank 1 of 2 failed: {name}: bad\n file{wall}")) == said
    kept = "rank 1 of 2 failed: ValueError: bad"
    assert output.sentence(GraphshardError(kept + wall)) == kept
    assert output.sentence(ShardError("plain")) == "plain"


def test_json_has_no_nan(capsys):
    output.show_json({"a": float("nan"), "b": [float("inf"), 1.5]})
    assert json.loads(capsys.readouterr().out) == {"a": "nan", "b": ["inf", 1.5]}


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (12_345, "12.3 kB"), (5e6, "5 MB"), (2.5e12, "2.5e+03 GB")],
)
def test_bytes_are_readable(count, text):
    assert output.bytes_text(count) == text
