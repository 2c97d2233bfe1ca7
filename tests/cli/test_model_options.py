"""The options that say what a model's file leaves open, from the command line to one ReadOptions."""

import click
import pytest
from click.testing import CliRunner

from deepen.cli.model_options import model_options
from deepen.errors import ConfigError
from deepen.graph import ReadOptions


def read_options(*words):
    taken = []

    @click.command()
    @click.argument("model")
    @model_options
    def command(model, read_options):
        taken.append(read_options)

    outcome = CliRunner().invoke(command, ["m.onnx", *words], catch_exceptions=False, standalone_mode=False)
    assert outcome.exit_code == 0, outcome.output
    return taken[0]


def test_nothing_said_is_nothing_said():
    assert read_options() == ReadOptions()


def test_every_option_arrives(tmp_path):
    library = tmp_path / "ops.so"
    library.touch()
    words = ["--shape", "a=1x0x4", "--shape", "b:0=2", "--dim", "N=3", "--size", "/nms/out=300", "--rounds", "/loop=12"]
    words += ["--branch", "use_cache=TRUE", "--branch", "if=no", "--allow-unknown"]
    given = read_options(*words, "--dim", "past + s=0", "--custom-ops", str(library))
    assert given == ReadOptions(
        shapes={"a": (1, 0, 4), "b:0": (2,)},
        dims={"past + s": 0, "N": 3},
        sizes={"/nms/out": 300},
        rounds={"/loop": 12},
        branches={"use_cache": True, "if": False},
        custom_ops=(str(library),),
        allow_unknown=True,
    )


@pytest.mark.parametrize("option", ["--dim", "--size", "--rounds"])
@pytest.mark.parametrize("text", ["n", "n=", "=3", "n=-1", "n=1.5", "n=x", "n=²", "n=9999999999999"])
def test_a_count_is_a_whole_number(option, text):
    with pytest.raises(ConfigError, match=f"cannot read '{option} .*; write it as {option} NAME=16"):
        read_options(option, text)


@pytest.mark.parametrize("text", ["n", "n=", "n=maybe", "=true"])
def test_a_branch_is_true_or_false(text):
    with pytest.raises(ConfigError, match=r"cannot read '--branch .*; write it as --branch NAME=true"):
        read_options("--branch", text)
