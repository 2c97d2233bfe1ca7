"""Training on a world with known physics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from deepen import predictors
from deepen.errors import ConfigError, PredictorError
from deepen.kernels.features import build_feature_matrix
from deepen.predictors.fitting.folds import FamilyData, make_stratified_group_folds
from deepen.predictors.fitting.recipes import Recipe


def errors(predictor, records):
    raw = build_feature_matrix([r.features for r in records])
    found = predictor.energies([r.family for r in records], raw)
    return found, np.abs(found.energy_j / np.array([r.energy_j for r in records]) - 1.0)


def test_unseen_kernels_of_a_known_world_are_predicted_well(trained, world_of):
    """Noise is 2 %, so a perfect predictor has a mean error of 1.6 %."""
    _, _, predictor = trained
    test = world_of(99).kernels(60)
    found, error = errors(predictor, test)
    assert found.regressor.all()
    assert error.mean() < 0.04
    assert np.mean(error <= 0.10) > 0.93
    by_family = {f: error[[r.family == f for r in test]].mean() for f in {r.family for r in test}}
    assert max(by_family.values()) < 0.08, by_family


def test_card_errors_are_those_of_unseen_data(trained, world_of):
    _, _, predictor = trained
    _, error = errors(predictor, world_of(98).kernels(60))
    assert predictor.card["held_out"]["mape"] == pytest.approx(100 * error.mean(), rel=0.5)
    families = predictor.card["families"]
    assert set(families) == {r.family for r in world_of(0).kernels(1)}
    assert all(f["rows"] == f["held_out"]["n"] == 40 for f in families.values())


@pytest.mark.parametrize("recipe", ["random-forest", "lightgbm", "extra-trees", "gaussian-process"])
def test_every_single_learner_recipe_beats_the_roofline(recipe, world_of, dataset_of):
    world = world_of(4)
    train = world.kernels(60, ("conv-bn-relu", "dwconv-bn-relu"))
    test = world.kernels(60, ("conv-bn-relu", "dwconv-bn-relu"))
    learned = predictors.train_predictor(dataset_of(train), recipe)
    baseline = predictors.train_predictor(dataset_of(train), "roofline")
    assert errors(learned, test)[1].mean() < 0.75 * errors(baseline, test)[1].mean()
    assert {f["learner"] for f in learned.card["families"].values()} == {recipe}
    assert not errors(baseline, test)[0].regressor.any()


def test_equal_seeds_give_equal_predictors_and_different_seeds_do_not(tmp_path, world_of, dataset_of, monkeypatch):
    from deepen.predictors.fitting import predictor_card

    monkeypatch.setattr(predictor_card, "utc_now", lambda: "2026-01-01T00:00:00Z")
    records = world_of(5).kernels(25, ("conv-bn-relu", "fc")) + [world_of(6).model(f"m{i}", 8, 1e-5) for i in range(6)]
    first = predictors.train_predictor(dataset_of(records), seed=1).save(tmp_path / "a")
    again = predictors.train_predictor(dataset_of(records), seed=1).save(tmp_path / "b")
    assert first.read_bytes() == again.read_bytes()
    a = predictors.train_predictor(dataset_of(records), "extra-trees", seed=1)
    b = predictors.train_predictor(dataset_of(records), "extra-trees", seed=2)
    test = world_of(7).kernels(5, ("conv-bn-relu",))
    assert not np.array_equal(errors(a, test)[0].energy_j, errors(b, test)[0].energy_j)
    assert a.id != b.id


def test_order_of_records_does_not_change_the_data_hash(trained, dataset_of):
    _, records, predictor = trained
    again = predictors.train_predictor(dataset_of(records[::-1]), Recipe("quick", learners=()))
    assert again.card["data_sha256"] == predictor.card["data_sha256"]
    fewer = predictors.train_predictor(dataset_of(records[1:]), Recipe("quick", learners=()))
    assert fewer.card["data_sha256"] != predictor.card["data_sha256"]


def test_families_with_few_rows_are_answered_by_the_roofline_and_counted(world_of, dataset_of):
    world = world_of(8)
    records = world.kernels(40, ("conv-bn-relu", "relu", "elementwise")) + world.kernels(3, ("add",))
    predictor = predictors.train_predictor(dataset_of(records))
    assert predictor.card["families"]["add"]["method"] == "roofline"
    test = world.kernels(30, ("add", "softmax", "conv-bn-relu"))
    found, error = errors(predictor, test)
    few, none, many = (np.array([r.family == f for r in test]) for f in ("add", "softmax", "conv-bn-relu"))
    assert not found.regressor[few | none].any() and found.regressor[many].all()
    assert error[few].mean() < 0.35
    assert np.median(error[none]) < 0.6
    assert found.half_width[none].min() > found.half_width[many].max()


def test_repeated_configurations_do_not_count_as_rows(world_of, dataset_of):
    world = world_of(9)
    same = world.kernel("add")
    records = world.kernels(20, ("conv-bn-relu",)) + [
        replace(same, energy_j=same.energy_j * (1 + i / 100)) for i in range(20)
    ]
    assert predictors.train_predictor(dataset_of(records)).card["families"]["add"]["method"] == "roofline"


def test_a_configuration_is_never_on_both_sides_of_a_fold():
    keys = tuple(f"k{i // 3}" for i in range(60))
    data = FamilyData("f", np.ones((60, 6)), np.ones((60, 2), np.float32), np.linspace(1, 9, 60), np.ones(60), keys)
    masks = make_stratified_group_folds(data, 5, seed=0)
    assert len(masks) == 5 and np.sum(masks, axis=0).tolist() == [1] * 60
    for mask in masks:
        assert not {k for k, m in zip(keys, mask, strict=True) if m} & {
            k for k, m in zip(keys, mask, strict=True) if not m
        }


def test_uncertain_rows_count_less(world_of, dataset_of):
    """Half of the rows are 40 % too high but say so; the predictor follows the others."""
    world = world_of(10)
    good = world.kernels(60, ("fc",))
    bad = [replace(r, energy_j=1.4 * r.energy_j, uncertainty_j=0.5 * r.energy_j) for r in world.kernels(60, ("fc",))]
    predictor = predictors.train_predictor(dataset_of(good + bad))
    assert errors(predictor, world.kernels(40, ("fc",)))[1].mean() < 0.06


def test_unusable_records_are_left_out_and_counted(world_of, dataset_of):
    world = world_of(11)
    records = world.kernels(10, ("relu",))
    records += [
        replace(records[0], energy_j=-1e-9),
        replace(records[1], features={}),
        replace(world.model("m", 2, 0.0), kernels=()),
    ]
    card = predictors.train_predictor(dataset_of(records)).card
    assert sum(card["left_out"].values()) == 3 and card["rows"] == 10
    assert len([w for w in card["warnings"] if "left out" in w]) == 3


def test_nothing_to_train_on_is_an_error_with_the_reason(world_of, dataset_of):
    with pytest.raises(PredictorError, match="no kernel records"):
        predictors.train_predictor(dataset_of([]))
    with pytest.raises(PredictorError, match="not positive"):
        predictors.train_predictor(dataset_of([replace(world_of(0).kernel("relu"), energy_j=0.0)]))


def test_features_of_another_version_are_left_out_with_the_reason(world_of, dataset_of):
    record = replace(world_of(0).kernel("relu"), features_version=999)
    with pytest.raises(PredictorError, match="nothing to train on: 1 x features of another version"):
        predictors.train_predictor(dataset_of([record]))


def test_labels_and_conditions_that_mix_are_named(world_of, dataset_of):
    records = world_of(12).kernels(10, ("relu",)) + world_of(13, source="simulated", device="other").kernels(
        9, ("relu",)
    )
    card = predictors.train_predictor(dataset_of(records)).card
    assert card["learnt_from"] == "simulated" and card["sources"] == {"modelled": 10, "simulated": 9}
    assert any("device" in w and "other" in w for w in card["warnings"])
    assert any("labels were mixed" in w for w in card["warnings"])


def test_the_family_other_never_gets_a_regressor(world_of, dataset_of):
    records = [replace(r, family="other") for r in world_of(14).kernels(30, ("relu",))]
    card = predictors.train_predictor(dataset_of(records + world_of(15).kernels(10, ("add",)))).card
    assert card["families"]["other"]["method"] == "roofline" and card["families"]["add"]["method"] == "regressor"


def test_a_family_whose_features_are_all_equal_is_trained(world_of, dataset_of):
    """Configurations may differ in what no feature shows."""
    record = world_of(16).kernel("softmax")
    same = [replace(record, params={"i": i}, energy_j=1e-5 * (1 + i / 1000)) for i in range(12)]
    predictor = predictors.train_predictor(dataset_of(same + world_of(17).kernels(10, ("relu",))))
    assert errors(predictor, same)[1].max() < 0.02


def test_extra_trees_stand_in_where_a_family_is_too_large_for_the_process(world_of, dataset_of):
    records = world_of(18).kernels(30, ("relu",)) + world_of(19).kernels(12, ("add",))
    card = predictors.train_predictor(
        dataset_of(records), Recipe("q", learners=("gaussian-process",), gaussian_max_rows=20)
    ).card
    assert {name: f["learner"] for name, f in card["families"].items()} == {
        "add": "gaussian-process",
        "relu": "extra-trees",
    }


def test_progress_names_each_family(world_of, dataset_of):
    seen = []
    predictors.train_predictor(
        dataset_of(world_of(18).kernels(8, ("relu", "add"))),
        Recipe("q", learners=("gaussian-process",)),
        on_progress=lambda *a: seen.append(a),
    )
    assert seen == [(1, 2, "add"), (2, 2, "relu")]


def test_large_datasets_stay_within_the_node_budget(world_of, dataset_of):
    records = world_of(19).kernels(150, ("conv-bn-relu", "fc"))
    recipe = Recipe("small", learners=("random-forest", "extra-trees"), trees=20, max_nodes=3000)
    predictor = predictors.train_predictor(dataset_of(records), recipe)
    assert 0 < predictor.card["nodes"] <= 3000


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learners": ("random-forrest",)}, "did you mean random-forest"),
        ({"folds": 1}, "folds >= 2"),
        ({"max_nodes": 10**9}, "max_nodes"),
    ],
)
def test_impossible_recipes_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Recipe("r", **options)


def test_every_recipe_of_the_catalog_loads_and_unknown_ones_name_the_nearest():
    names = predictors.list_recipe_names()
    assert {"auto", "random-forest", "lightgbm"} <= set(names)
    assert all(predictors.load_recipe(n).title for n in names)
    with pytest.raises(ConfigError, match="did you mean"):
        predictors.load_recipe("random-forrest")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('learnerz = ["lightgbm"]', "did you mean learners"),
        ("trees = true", "must be of type int"),
        ("trees = [1", "TOML"),
    ],
)
def test_recipe_files_with_mistakes_are_refused(tmp_path, monkeypatch, text, message):
    folder = tmp_path / "predictors" / "recipes"
    folder.mkdir(parents=True)
    (folder / "mine.toml").write_text(text)
    monkeypatch.setenv("DEEPEN_CATALOG", str(tmp_path))
    with pytest.raises(ConfigError, match=message):
        predictors.load_recipe("mine")
