"""TARGET of the command line: what it may be, and one sentence for everything it may not."""

import pickle

import pytest
import torch
from support.repository import SUPPORT

from graphshard.errors import DataError
from graphshard.tools.data.sources import load_data
from graphshard.tools.targets import models
from graphshard.tools.targets.load import load_target

MODELS = str(SUPPORT / "cli_models.py")


@pytest.fixture(autouse=True)
def _quiet_import_of_pyg():
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize(
    "spec", [f"{MODELS}:Plain", f"{MODELS}:instance", "support.cli_models:Plain", *models.NAMES]
)
def test_a_target_makes_equal_models_here_and_in_other_processes(spec):
    target = load_target(spec, load_data("karate"), seed=3)
    state = torch.get_rng_state()
    one, other = target(), pickle.loads(pickle.dumps(target))()
    assert torch.equal(torch.get_rng_state(), state)
    assert one is not other
    assert one.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    graph = load_data("karate")
    assert one(graph.x, graph.edge_index).shape == (34, 2)


def test_the_seed_decides_the_weights():
    weights = [load_target("gcn", seed=seed)().convs[0].weight for seed in (0, 0, 1)]  # type: ignore[index, union-attr]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_the_built_in_gcn_is_pygs():
    from torch_geometric.nn import GCNConv

    graph = load_data("karate")
    ours, theirs = models.GCNLayer(34, 5), GCNConv(34, 5)
    theirs.lin.weight.data = ours.weight.data.t()
    torch.testing.assert_close(ours(graph.x, graph.edge_index), theirs(graph.x, graph.edge_index))


def test_options_reach_a_built_in_model():
    target = load_target("gat", load_data("karate"), hidden=3, layers=3, dropout=0.25, heads=2)
    assert [(c.in_channels, c.out_channels, c.heads) for c in target().convs] == [  # type: ignore[union-attr]
        (34, 3, 2),
        (6, 3, 2),
        (6, 2, 1),
    ]
    assert target().dropout == 0.25
    assert target.without_dropout()().dropout == 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("needs_arguments", r"needs arguments \(width\)"),
        ("number", "is a int: give an nn.Module"),
        ("missing", "has no 'missing'; it has .*Plain.*instance"),
        ("raises", r"cli_models.py:\d+: `raise ValueError\(.*`: ValueError: planted(\n|$)"),
        ("gives_int", "returned a int, not an nn.Module"),
    ],
)
def test_what_is_no_model_is_said(name, said):
    with pytest.raises(DataError, match=said):
        load_target(f"{MODELS}:{name}")()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("gnn", "no model 'gnn': use gcn, sage, gat, gin, or file.py:name"),
        ("gone.py:Net", "there is no file gone.py"),
        ("gone.away:Net", "there is no module 'gone.away'"),
    ],
)
def test_what_is_not_there_is_said(spec, said):
    with pytest.raises(DataError, match=said):
        load_target(spec)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import torch\n\nimport gone_away\n", r":3: `import gone_away`: ModuleNotFoundError"),
        ("x = 1\ndef f(:\n", r":2: SyntaxError"),
        ("raise SystemExit(2)\n", r":1: .*SystemExit"),
    ],
)
def test_a_file_that_does_not_import_is_said_with_its_line(code, said, tmp_path):
    (tmp_path / "broken.py").write_text(code)
    with pytest.raises(DataError, match=r"broken\.py" + said):
        load_target(f"{tmp_path / 'broken.py'}:Net")
