"""Models with external data: found, hashed and brought to a device together."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deepen.devices import model_files
from deepen.devices.links.local import LocalLink
from deepen.devices.model_files import find_external_data, hash_model, push_model
from deepen.devices.runtimes.python_runner import OnnxRuntime
from deepen.errors import ConfigError, LinkError
from deepen.testing.links import make_shell_link

ODD = "weights '$(id)\n.bin"


def write(path: Path, *places: str, data: bytes | None = None) -> Path:
    """A chain of matrix products whose matrices lie in these files."""
    from onnx import TensorProto as T
    from onnx import helper, save

    tensors, nodes = [], []
    for k, place in enumerate(places):
        tensor = T(name=f"w{k}", data_type=T.FLOAT, dims=[8, 8], data_location=T.EXTERNAL)
        for key, value in {"location": place, "offset": "0", "length": "256"}.items():
            tensor.external_data.add(key=key, value=value)
        tensors.append(tensor)
        nodes.append(helper.make_node("MatMul", [f"x{k}", f"w{k}"], [f"x{k + 1}"]))
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "chain", [info("x0", T.FLOAT, [1, 8])], [info(f"x{len(places)}", T.FLOAT, [1, 8])], tensors
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    for k, place in enumerate(places):
        if not place.startswith(("/", "..")):
            file = path.parent / place
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(np.full((8, 8), k + 1, np.float32).tobytes() if data is None else data)
    return path


@pytest.fixture
def link(tmp_path: Path) -> Any:
    (tmp_path / "home").mkdir()
    opened = make_shell_link(str(tmp_path / "home"))
    yield opened
    opened.close()


def test_data_files_are_found_where_the_model_names_them(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", "a.bin", "sub/b.bin", ODD)
    assert find_external_data(path) == {p: (tmp_path / p).resolve() for p in ("a.bin", "sub/b.bin", ODD)}


def test_tensors_of_inner_graphs_count(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto as T
    from onnx import helper

    tensor = T(name="c", data_type=T.FLOAT, dims=[64], data_location=T.EXTERNAL)
    tensor.external_data.add(key="location", value="inner.bin")
    branch = helper.make_graph([helper.make_node("Constant", [], ["y"], value=tensor)], "then", [], [])
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    model = helper.make_model(helper.make_graph([node], "g", [], []))
    onnx.save(model, str(tmp_path / "m.onnx"))
    assert list(find_external_data(tmp_path / "m.onnx")) == ["inner.bin"]


def test_files_without_data_have_none(models: Path, tmp_path: Path) -> None:
    assert find_external_data(models / "matmul.onnx") == {}
    assert find_external_data(models / "garbage.onnx") == {}
    (tmp_path / "m.tflite").write_bytes(b"\x1c\0\0\0TFL3 location")
    (tmp_path / "words.onnx").write_bytes(b"location, location, location")
    assert find_external_data(tmp_path / "m.tflite") == find_external_data(tmp_path / "words.onnx") == {}


@pytest.mark.parametrize("place", ["/etc/passwd", "../w.bin", "a/../../w.bin", "..\\w.bin", "C:\\w.bin", ".", ""])
def test_nothing_outside_the_folder_is_followed(place: str, tmp_path: Path) -> None:
    path = tmp_path / "in" / "m.onnx"
    write(path, "w.bin")
    path.write_bytes(path.read_bytes())
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    model.graph.initializer[0].external_data[0].value = place
    onnx.save(model, str(path))
    with pytest.raises(ConfigError, match="outside its own folder"):
        find_external_data(path)


def test_a_symbolic_link_that_leads_outside_is_not_followed(tmp_path: Path) -> None:
    path = write(tmp_path / "in" / "m.onnx", "w.bin")
    (tmp_path / "secret").write_bytes(bytes(256))
    (tmp_path / "in" / "w.bin").unlink()
    (tmp_path / "in" / "w.bin").symlink_to(tmp_path / "secret")
    with pytest.raises(ConfigError, match="leads outside"):
        find_external_data(path)


def test_the_hash_covers_the_data(tmp_path: Path, models: Path) -> None:
    path = write(tmp_path / "m.onnx", "a.bin")
    before = hash_model(path)
    (tmp_path / "a.bin").write_bytes(bytes(256))
    assert hash_model(path) != before
    import hashlib

    plain = models / "add.onnx"
    assert hash_model(plain) == hashlib.sha256(plain.read_bytes()).hexdigest()


def test_data_shared_by_models_is_read_once_and_again_after_a_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [write(tmp_path / f"m{i}.onnx", "a.bin") for i in range(3)]
    data = tmp_path / "a.bin"
    read: list[Path] = []
    hash_file = model_files._hash_file
    monkeypatch.setattr(model_files, "_hash_file", lambda path: read.append(path) or hash_file(path))
    fresh = [hash_model(path) for path in paths]
    assert len([path for path in read if path.name == "a.bin"]) == 3, "a file just written may change unseen"

    monkeypatch.setattr(model_files.time, "time", lambda: data.stat().st_ctime + 60)
    read.clear()
    assert [hash_model(path) for path in paths] == fresh
    assert len([path for path in read if path.name == "a.bin"]) == 1
    data.write_bytes(bytes(data.stat().st_size))
    changed = [hash_model(path) for path in paths]
    assert set(changed).isdisjoint(fresh)


def test_a_model_and_its_data_arrive_together(link: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "model '$(id).onnx", "a.bin", "sub/b.bin", ODD)
    there = Path(push_model(link, path))
    assert there.read_bytes() == path.read_bytes()
    for place in ("a.bin", "sub/b.bin", ODD):
        assert (there.parent / place).read_bytes() == (tmp_path / place).read_bytes()
    assert {p.relative_to(there.parent).as_posix() for p in there.parent.rglob("*") if p.is_file()} == {
        there.name, "a.bin", "sub/b.bin", ODD,
    }  # fmt: skip
    stamp = there.stat().st_mtime_ns
    assert push_model(link, path) == str(there)
    assert there.stat().st_mtime_ns == stamp
    (tmp_path / "a.bin").write_bytes(bytes(256))
    assert Path(push_model(link, path)).parent != there.parent  # another content is another model


def test_it_runs_there(link: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", "a.bin", "sub/b.bin")
    runtime = OnnxRuntime(link, python=sys.executable)
    try:
        loaded = runtime.load(path)
        assert loaded.run(3).runs == 3
        loaded.close()
    finally:
        runtime.close()


def test_a_missing_data_file_is_told_before_anything_is_copied(link: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", "a.bin")
    (tmp_path / "a.bin").unlink()
    with pytest.raises(ConfigError, match=r"data file 'a.bin' is missing; put it beside the model"):
        push_model(link, path)


def test_two_files_cannot_share_a_place(link: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", "a.bin", "./a.bin")
    with pytest.raises(ConfigError, match="share a place"):
        push_model(link, path)


def test_a_full_disk_is_told(link: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", "a/b.bin")
    there = Path(push_model(link, path))
    folder = there.parent
    (folder / "a" / "b.bin").unlink()
    (folder / "a").rmdir()
    (folder / "a").write_text("in the way")
    with pytest.raises(LinkError, match="could not be put together"):
        push_model(link, path)


def test_a_local_link_leaves_everything_where_it_is(tmp_path: Path) -> None:
    path = write(tmp_path / "m.onnx", "a.bin")
    assert push_model(LocalLink(), path) == str(path.resolve())
