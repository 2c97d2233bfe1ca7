"""The predictor file: what is read is what was written, and nothing hostile gets in."""

from __future__ import annotations

import io
import json
import pickle
import zipfile

import numpy as np
import pytest

from deepen import predictors
from deepen.errors import ConfigError, PredictorError, StorageError
from deepen.kernels.features import build_feature_matrix
from deepen.predictors import predictor_file


@pytest.fixture(scope="module")
def original(trained, tmp_path_factory):
    _, _, predictor = trained
    return predictor.save(tmp_path_factory.mktemp("predictor") / "bench")


@pytest.fixture
def forge(original, tmp_path):
    """Write a copy of the file with members replaced, added (bytes) or removed (None)."""

    def make(changes, compress=zipfile.ZIP_DEFLATED):
        path = tmp_path / "forged.deepen"
        with zipfile.ZipFile(original) as source, zipfile.ZipFile(path, "w", compress) as target:
            members = {n: source.read(n) for n in source.namelist()} | changes
            for name, content in members.items():
                if content is not None:
                    target.writestr(name, content)
        return path

    return make


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def card_of(path, **changes):
    with zipfile.ZipFile(path) as archive:
        return json.dumps(json.loads(archive.read("card.json")) | changes).encode()


def array_of(path, name):
    with zipfile.ZipFile(path) as archive:
        return np.load(io.BytesIO(archive.read(f"{name}.npy"))).copy()


def test_what_is_read_predicts_the_same(trained, original, world_of):
    _, _, predictor = trained
    again = predictors.load_predictor(original)
    test = world_of(30).kernels(20)
    raw = build_feature_matrix([r.features for r in test])
    before = predictor.energies([r.family for r in test], raw)
    after = again.energies([r.family for r in test], raw)
    np.testing.assert_array_equal(before.energy_j, after.energy_j)
    np.testing.assert_array_equal(before.half_width, after.half_width)
    assert again.card == json.loads(json.dumps(predictor.card)) and again.context == predictor.context
    assert original.name == "bench.deepen" and original.stat().st_size < predictor_file.MAX_BYTES


def test_predictions_equal_those_of_the_learners_that_were_fitted(world_of, dataset_of, tmp_path):
    """File, flat arrays and evaluator against the fitted family itself, to a millionth."""
    from deepen.predictors.fitting import train
    from deepen.predictors.inference.columns import make_columns
    from deepen.predictors.inference.roofline import compute_log_roofline

    world = world_of(31)
    fits = {}
    real = train.fit_family

    def spy(plan, *args):
        fits[plan.data.name] = real(plan, *args)
        return fits[plan.data.name]

    train.fit_family = spy
    try:
        records = world.kernels(60, ("conv-bn-relu", "dwconv-bn-relu", "elementwise"))
        path = predictors.train_predictor(dataset_of(records)).save(tmp_path / "p")
    finally:
        train.fit_family = real
    loaded = predictors.load_predictor(path)
    raw = build_feature_matrix([r.features for r in records])
    got = loaded.energies([r.family for r in records], raw).energy_j
    x = make_columns(raw, loaded.parameters.feature_names)
    for name, fit in fits.items():
        rows = np.array([r.family == name for r in records])
        whole, own = x[rows], x[rows][:, fit.active]
        residual = sum(part * m.predict(whole if m.learner == "shared-gaussian" else own) for m, part in fit.members)
        assert sum(part for _, part in fit.members) == pytest.approx(1.0)
        expected = np.exp(
            compute_log_roofline(train.compute_work_terms(raw[rows], loaded.parameters.feature_names), fit.work)
            + residual
        )
        np.testing.assert_allclose(got[rows], expected, rtol=2e-6)


def test_writing_leaves_nothing_behind_on_failure(trained, tmp_path, monkeypatch):
    _, _, predictor = trained
    target = tmp_path / "p.deepen"
    target.write_bytes(b"old")

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match=r"p\.deepen.*No space left"):
        predictor.save(target)
    assert target.read_bytes() == b"old" and list(tmp_path.iterdir()) == [target]


def test_a_folder_in_the_way_is_a_storage_error(trained, tmp_path):
    _, _, predictor = trained
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        predictor.save(tmp_path / "file" / "p.deepen")


def test_a_predictor_that_would_be_too_large_is_not_written(trained, tmp_path, monkeypatch):
    _, _, predictor = trained
    monkeypatch.setattr(predictor_file, "MAX_BYTES", 1000)
    with pytest.raises(PredictorError, match="max_nodes"):
        predictor.save(tmp_path / "p.deepen")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "content", [b"", b"PK\x03\x04 but not a zip", pickle.dumps({"a": 1}), b"\x00" * 5000, b"PK\x05\x06" + b"\0" * 18]
)
def test_foreign_files_are_refused_in_one_line(tmp_path, content):
    path = tmp_path / "x.deepen"
    path.write_bytes(content)
    with pytest.raises(PredictorError, match=r"x\.deepen.*not a predictor file") as caught:
        predictors.load_predictor(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncated_files_are_refused(original, tmp_path, share):
    content = original.read_bytes()
    path = tmp_path / "x.deepen"
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(PredictorError, match="not a predictor file"):
        predictors.load_predictor(path)


def test_any_flipped_byte_is_refused_or_harmless(original, tmp_path):
    """CRCs catch changes of content; changes of the container must not crash."""
    content = bytearray(original.read_bytes())
    rng = np.random.default_rng(0)
    path = tmp_path / "x.deepen"
    for at in rng.integers(0, len(content), 150):
        changed = bytearray(content)
        changed[at] ^= 1 << int(rng.integers(0, 8))
        path.write_bytes(changed)
        try:
            predictors.load_predictor(path)
        except PredictorError as error:
            assert "x.deepen" in str(error)


def test_members_are_checked(forge, original):
    cases = [
        ({"extra.npy": b"x"}, "unexpected or missing member 'extra.npy'"),
        ({"../evil": b"x"}, "unexpected or missing member"),
        ({"work.npy": None}, "unexpected or missing member 'work.npy'"),
        ({"card.json": None}, "no card"),
        ({"card.json": b"{"}, "not JSON"),
        ({"card.json": b"[" * 100_000}, "not JSON"),
        ({"card.json": b"[]"}, "not a predictor file"),
        ({"card.json": b'{"format": "other"}'}, "not a predictor file"),
        ({"card.json": card_of(original, format_version=1)}, "format 1, this deepen reads 3"),
        ({"card.json": card_of(original, families=[])}, "lacks families"),
        ({"card.json": card_of(original, families={})}, "does not fit"),
        ({"card.json": card_of(original, feature_names=[1])}, "lacks families or feature names"),
        ({"card.json": card_of(original, feature_names=["macs"])}, "do not fit"),
        ({"card.json": card_of(original, learnt_from="guessed")}, "lacks an id or a known label"),
        ({"card.json": card_of(original, id=5)}, "lacks an id"),
        ({"card.json": card_of(original, context=None)}, "context terms"),
        ({"card.json": card_of(original, context=[1])}, "context terms"),
    ]
    for changes, message in cases:
        with pytest.raises(PredictorError, match=message):
            predictors.load_predictor(forge(changes))


def test_a_newer_format_with_other_members_says_newer(forge, original):
    path = forge({"card.json": card_of(original, format_version=7), "new.npy": b"x", "work.npy": None})
    with pytest.raises(PredictorError, match="format 7, this deepen reads 3; upgrade"):
        predictors.load_predictor(path)


def test_another_version_of_the_features_names_both_and_the_cure(forge, original):
    with pytest.raises(PredictorError, match=r"features version 99, this deepen has \d+; train it again"):
        predictors.load_predictor(forge({"card.json": card_of(original, features_version=99)}))
    names = json.loads(card_of(original))["feature_names"]
    with pytest.raises(PredictorError, match="its features are not those"):
        predictors.load_predictor(forge({"card.json": card_of(original, feature_names=[*names[1:], names[0]])}))


def test_arrays_are_checked(forge, original):
    work = array_of(original, "work")
    start = array_of(original, "tree_start")
    cases = [
        ("work", npy(work.astype(np.float32)), "must be <f8"),
        ("work", npy(work[:-1]), "does not fit"),
        ("work", npy(work.ravel()), "does not fit"),
        ("work", npy(-work), "out of range"),
        ("work", npy(work * np.nan), "not finite"),
        ("work", npy(np.asfortranarray(work)), "must be <f8"),
        ("work", npy(work)[:-8], "not as large as its header"),
        ("work", npy(work) + b"\0" * 8, "not as large as its header"),
        ("work", b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f8'}", "broken header"),
        ("work", b"not an array", "broken header"),
        ("work", npy(np.array([{"a": 1}], dtype=object)), "must be <f8"),
        ("trend_scale", npy(array_of(original, "trend_scale") * 0), "out of range"),
        ("tree_start", npy(start + 1), "do not add up"),
        ("tree_start", npy(np.concatenate([start[:1], start[:0:-1]])), "do not add up|does not fit"),
        ("forest_left", npy(array_of(original, "forest_left") + 10**6), "child index"),
        ("forest_feature", npy(array_of(original, "forest_feature") + 10_000), "column that does not exist"),
    ]
    for name, content, message in cases:
        with pytest.raises(PredictorError, match=message):
            predictors.load_predictor(forge({f"{name}.npy": content}))


def test_a_header_that_promises_terabytes_allocates_nothing(forge, original):
    header = npy(np.zeros(8))
    huge = header.replace(b"(8,), }" + b" " * 12, b"(9000000000000,), }")
    assert len(huge) == len(header) and huge != header
    with pytest.raises(PredictorError, match="not as large as its header says"):
        predictors.load_predictor(forge({"gaussian_alpha.npy": huge}))


def test_zip_bombs_are_refused(forge):
    bomb = npy(np.zeros((10**7,)))
    with pytest.raises(PredictorError, match="unpacks to more than"):
        predictors.load_predictor(forge({"work.npy": bomb}))
    with pytest.raises(PredictorError, match="not as large as it says"):
        predictors.load_predictor(forge({"card.json": b" " * 3_000_000}))


def test_files_larger_than_a_predictor_may_be_are_not_opened(tmp_path):
    path = tmp_path / "x.deepen"
    with path.open("wb") as stream:
        stream.truncate(predictor_file.MAX_BYTES + 1)
    with pytest.raises(PredictorError, match="more than a predictor may have"):
        predictors.load_predictor(path)


def test_duplicate_and_encrypted_members_are_refused(forge, original, tmp_path):
    path = tmp_path / "x.deepen"
    path.write_bytes(original.read_bytes())
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("card.json", b"{}")
    with pytest.raises(PredictorError):
        predictors.load_predictor(path)
    content = bytearray(original.read_bytes())
    at = content.index(b"PK\x01\x02")
    content[at + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(PredictorError, match="not a predictor file"):
        predictors.load_predictor(path)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(PredictorError, match=r"none\.deepen: no such file"):
        predictors.load_predictor(tmp_path / "none.deepen")
    (tmp_path / "folder.deepen").mkdir()
    with pytest.raises(PredictorError, match=r"folder\.deepen"):
        predictors.load_predictor(tmp_path / "folder.deepen")


def test_names_are_looked_up_and_unknown_ones_get_the_nearest(trained, tmp_path, monkeypatch):
    _, _, predictor = trained
    monkeypatch.setenv("DEEPEN_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="unknown predictor 'benhc'; known: "):
        predictors.load_predictor("benhc")
    predictor.save(tmp_path / "predictors" / "bench")
    assert predictors.load_predictor("bench").id == predictor.id
    assert list(predictors.list_predictors()) == ["bench"]
    with pytest.raises(ConfigError, match="did you mean bench"):
        predictors.load_predictor("benhc")


def test_published_predictors_are_found_and_hidden_by_the_users_own(trained, tmp_path, monkeypatch):
    _, _, predictor = trained
    catalog = tmp_path / "catalog"
    published = predictor.save(catalog / "predictors" / "published" / "bench")
    monkeypatch.setenv("DEEPEN_CATALOG", str(catalog))
    monkeypatch.setenv("DEEPEN_HOME", str(tmp_path / "home"))
    assert predictors.list_predictors() == {"bench": published}
    own = predictor.save(tmp_path / "home" / "predictors" / "bench")
    assert predictors.list_predictors() == {"bench": own}
