"""A trained network without this package."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from PIL import Image
from sgr_train import networks
from sgr_train.config import RunConfig
from sgr_train.finished import load
from sgr_train.loader import load_data
from sgr_train.settings import make
from torch import nn

SMALL_IMAGES = {
    "vit_s_16": (3, 32, 32),
    "vit_b_16": (3, 32, 32),
    "swin_t": (3, 64, 64),
    "swin_s": (3, 64, 64),
    **{f"resnet{depth}": (3, 32, 32) for depth in (18, 34, 50, 101, 152)},
}


def trained(name):
    """With statistics and weights that are not those of a new network."""
    torch.manual_seed(0)
    network = networks.create(name, num_classes=10, image_shape=SMALL_IMAGES.get(name))
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    network.mean.fill_(0.4)
    network.std.fill_(0.3)
    return network


@pytest.mark.parametrize("name", networks.names())
def test_logits_are_those_of_the_network(name):
    network = trained(name)
    exported = network.export()
    assert network.training and not exported.training
    pixels = torch.rand(3, *network.image_shape)
    with torch.no_grad():
        expected, found = network.eval()((pixels - 0.4) / 0.3), exported(pixels)
    assert found.std() > 0
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_it_is_a_copy():
    network = trained("plainnet")
    pixels = torch.rand(2, *network.image_shape)
    exported = network.export()
    before = exported(pixels)
    with torch.no_grad():
        for p in network.parameters():
            p.zero_()
    assert exported(pixels).equal(before)


def test_checkpointed_blocks_are_exported_as_they_were():
    network = trained("plainnet")
    names = network.export().state_dict().keys()
    network.checkpoint_blocks()
    assert network.export().state_dict().keys() == names


RUN = """
import sys, torch
found = [name for name in sys.modules if name.startswith("sgr_")]
module = torch.load(sys.argv[1], weights_only=False)
state = torch.load(sys.argv[2], weights_only=True)
for parameter in module.parameters():
    parameter.data.zero_()
module.load_state_dict(state)
torch.save(module(torch.load(sys.argv[3])), sys.argv[4])
found += [name for name in sys.modules if name.startswith("sgr_")]
sys.exit(f"imports {found}" if found else 0)
"""


@pytest.mark.parametrize("name", ["plainnet", "resnet14", "vit_s_16", "swin_t"])
def test_it_runs_without_this_package(name, tmp_path):
    network = trained(name).eval()
    exported, pixels = network.export(), torch.rand(2, *network.image_shape)
    for what, file in ((exported, "module"), (exported.state_dict(), "state"), (pixels, "pixels")):
        torch.save(what, tmp_path / file)
    files = [str(tmp_path / file) for file in ("module", "state", "pixels", "logits")]
    subprocess.run([sys.executable, "-c", RUN, *files], check=True, cwd=tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(torch.load(tmp_path / "logits"), network((pixels - 0.4) / 0.3), rtol=1e-5, atol=1e-5)


# --- commands on a finished run ---------------------------------------------------------------------------------------


def test_evaluate_counts_by_class(sgr_train, finished):
    status, text, errors = sgr_train("evaluate", finished)
    assert (status, errors) == (0, "")
    rows = [line.split() for line in text.splitlines()[2:]]
    assert [row[0] for row in rows] == [*map(str, range(10)), "all"]
    right = [int(row[1]) * float(row[2]) / 100 for row in rows]
    assert sum(right[:-1]) == pytest.approx(right[-1], abs=0.1) and rows[-1][1] == "359"
    summary = json.loads((finished / "summary.json").read_text())
    assert float(rows[-1][2]) == pytest.approx(100 * summary["test_accuracy"], abs=0.005)


def test_predict_is_what_the_network_says(sgr_train, finished, tmp_path):
    data = load_data(make(RunConfig), torch.device("cpu"))
    files = []
    for index in range(12):
        path = tmp_path / f"{index}.png"
        Image.fromarray(data.test.pixels[index, 0].numpy()).save(path)
        files.append(path)
    status, text, errors = sgr_train("predict", finished, *files)
    assert (status, errors) == (0, "")
    expected = load(finished).network.export()(data.test.pixels[:12].float() / 255).softmax(1).max(1)
    lines = [f"{p}: {label} ({value:.1%})" for p, value, label in zip(files, *map(torch.Tensor.tolist, expected),
                                                                      strict=True)]  # fmt: skip
    assert text.splitlines() == lines


RUN_PROGRAM = """
import sys, torch
program = torch.export.load(sys.argv[1]).module()
for batch in (1, 2, 5):
    assert program(torch.rand(batch, 1, 8, 8)).shape == (batch, 10)
torch.save(program(torch.load(sys.argv[2])), sys.argv[3])
sys.exit(any(name.startswith("sgr_") for name in sys.modules))
"""


def test_export_writes_a_program_that_runs_alone(sgr_train, finished, tmp_path):
    program, pixels, logits = (tmp_path / name for name in ("net.pt2", "pixels", "logits"))
    status, text, errors = sgr_train("export", finished, "--out", program)
    assert (status, errors) == (0, "") and "(1, 8, 8) an image -> logits of 0, 1, 2" in text
    images = torch.rand(3, 1, 8, 8)
    torch.save(images, pixels)
    subprocess.run([sys.executable, "-c", RUN_PROGRAM, program, pixels, logits], check=True, cwd=tmp_path)
    network = load(finished).network
    with torch.no_grad():
        expected = network((images - network.mean) / network.std)
    torch.testing.assert_close(torch.load(logits), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("evaluate", "nowhere"), "nowhere is not a run folder"),
        (("export", "RUN", "--out", "net.onnx"), "--out must end in .pt2, got 'net.onnx'"),
        (("export", "RUN", "--out", "no/such/folder/net.pt2"), "--out no/such/folder/net.pt2 cannot be written"),
        (("predict", "RUN", "missing.png"), "missing.png cannot be read"),
        (("predict", "RUN"), "the following arguments are required: IMAGE"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(sgr_train, finished, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    status, _, errors = sgr_train(*(finished if word == "RUN" else word for word in words))
    assert status == 2 and message in errors and errors.count("\n") == 1
