"""Stages of three kinds, as in IPA2LT; what its model then says of other faces; and mistakes."""

import json
import shutil

import cv2
import numpy as np
import pytest

import ferjax
from configs import annotate as annotate_config
from configs import evaluate as evaluate_config
from configs import ipa2lt as ipa2lt_config
from ferjax import annotate, main
from ferjax.data import crowd, synthetic
from ferjax.runs import train
from tests import tiny


@pytest.fixture(scope="module", autouse=True)
def _tiny_network():
    with pytest.MonkeyPatch.context() as patch:
        tiny.use_tiny_network(patch)
        yield


def small(**changes):
    """Sets of 32, 16 and 32 faces, the second not annotated; every stage one step."""
    config = ipa2lt_config.get_config()
    for name, part in config.data.sets.items():
        part.train_size, part.image_size = (16 if name == "unlabelled" else 32), 24
        part.test_size = 0 if name == "unlabelled" else 8
    config.model.name, config.model.width = tiny.NETWORK, 4
    config.loop.eval_batch_size = config.ltnet.batch_size = 16
    config.ltnet.steps = 1
    config.annotate.shard_size = config.annotate.batch_size = 16
    config.update_from_flattened_dict(changes)
    return config.copy_and_resolve_references()


COMPARATORS = ("em", "nal", "e2e_fc")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ipa2lt")
    assert main.execute(small(comparators=COMPARATORS), folder) == 0
    return folder


@pytest.fixture(scope="module")
def faces(tmp_path_factory):
    """Twenty drawn faces in folders named as their classes."""
    root = tmp_path_factory.mktemp("faces")
    truth = synthetic.truths(3, np.arange(20))
    for row, face in enumerate(synthetic.SyntheticFaces(3, 20, 24).faces(np.arange(20))):
        place = root / synthetic.EXPRESSIONS[truth[row]] / f"{row}.png"
        place.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(place), face[..., ::-1])
    return root


def test_machines_annotate_what_they_did_not_learn_from_and_ltnet_learns_from_all(finished):
    result = json.loads((finished / "result.json").read_text())
    assert result["headline"] == "ltnet/truth"
    assert {"machine_east", "machine_west", "union", "em"} < set(result["comparators"])
    assert {"nal/truth", "e2e_fc/truth"} < set(result["comparators"])
    assert "ltnet/as_machine_east" in result["comparators"]
    for machine, others in (("east", range(32, 80)), ("west", range(48))):
        table = annotate.read(finished / "stages" / f"annotate_{machine}" / "labels")
        assert table["index"].to_pylist() == list(others)
    learnt = np.load(finished / "stages" / "ltnet" / "learnt.npz")
    coders = ["east", "west", "machine_east", "machine_west"]
    assert learnt["coders"].tolist() == coders
    rows = np.load(finished / "stages" / "ltnet" / "predictions.npz")["train_rows"]
    assert rows.tolist() == list(range(80)), "faces that nobody annotated, too"
    figures = {"agreement.png", "transitions.png", "latent_truth.png"}
    figures |= {f"agreement_cases_{name}.png" for name in ("east", "west", "unlabelled")}
    assert figures <= {path.name for path in (finished / "report").iterdir()}


def test_a_finished_run_is_not_run_again(finished, capsys):
    times = {path: path.stat().st_mtime_ns for path in finished.glob("stages/*/done.json")}
    assert len(times) == 10  # a recipe each, and the truth that EM infers
    assert main.execute(small(comparators=COMPARATORS), finished) == 0
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_another_stage_or_other_labels_are_not_taken_for_those_measured(
    finished, faces, tmp_path, capsys
):
    config = evaluate_config.get_config()
    config.trained, config.stage, config.batch_size = str(finished), "union", 8
    (tmp_path / "list.txt").write_text(f"{next(faces.glob('happy/*.png'))} happy\n")
    config.groups.wild = (("some", str(tmp_path / "list.txt")),)
    assert main.execute(config, tmp_path / "run") == 0
    (tmp_path / "list.txt").write_text(f"{next(faces.glob('happy/*.png'))} sad\n")
    assert main.execute(config, tmp_path / "run") == 1
    assert "holds a run on other data" in capsys.readouterr().err
    config.stage = "ltnet"
    assert main.execute(config, tmp_path / "run") == 1
    assert "stage was union, is ltnet" in capsys.readouterr().err


def test_what_was_lost_of_a_run_is_made_again_as_it_was(finished, tmp_path):
    """LTNet whole, and a shard of what a machine said."""
    folder = tmp_path / "run"
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "stages" / "ltnet")
    shards = sorted((folder / "stages" / "annotate_east" / "labels").glob("part-*"))
    shards[-1].unlink()
    kept = shards[0].stat().st_mtime_ns
    assert main.execute(small(comparators=COMPARATORS), folder) == 0
    assert shards[0].stat().st_mtime_ns == kept
    for name in ("predictions", "learnt"):
        before, after = (np.load(x / f"stages/ltnet/{name}.npz") for x in (finished, folder))
        for array in before:
            np.testing.assert_array_equal(after[array], before[array])


def test_its_model_labels_other_faces(finished, faces, tmp_path):
    config = annotate_config.get_config()
    config.trained, config.path = str(finished), str(faces)
    config.annotate.shard_size = config.annotate.batch_size = 8
    assert main.execute(config, tmp_path) == 0
    table = annotate.read(tmp_path / "labels")
    assert len(table) == 20
    model = ferjax.load(finished)
    assert (model.name, model.image_shape) == ("ltnet", (24, 24, 3))
    result = json.loads((tmp_path / "result.json").read_text())
    assert sum(result["labels"].values()) == 20
    assert (tmp_path / "report" / "labelled.png").exists()


def test_other_faces_of_the_same_names_are_no_part_of_a_run(finished, faces, tmp_path, capsys):
    config = annotate_config.get_config()
    config.trained, config.path = str(finished), str(tmp_path / "faces")
    config.annotate.shard_size = config.annotate.batch_size = 8
    shutil.copytree(faces, config.path)
    assert main.execute(config, tmp_path / "run") == 0
    said = annotate.read(tmp_path / "run/labels")
    damaged = tmp_path / "run/labels/part-00001-of-00003.parquet"
    damaged.write_bytes(damaged.read_bytes()[:500])
    assert main.execute(config, tmp_path / "run") == 0
    assert annotate.read(tmp_path / "run/labels").equals(said), "they are labelled again"
    damaged.unlink()
    for picture in (tmp_path / "faces").glob("*/*.png"):
        cv2.imwrite(str(picture), 255 - cv2.imread(str(picture)))
    assert main.execute(config, tmp_path / "run") == 1
    assert "holds a run on other data" in _error(capsys)
    config.path = str(faces)  # where they are does not matter
    assert main.execute(config, tmp_path / "run") == 0
    assert annotate.read(tmp_path / "run/labels").equals(said)


def test_its_stages_are_measured_on_other_test_sets(finished, faces, tmp_path, capsys):
    config = evaluate_config.get_config()
    config.trained, config.stage, config.batch_size = str(finished), "machine_west", 8
    config.groups.wild = (("some", str(faces)), ("again", str(faces)))
    config.groups.posed = (("happy ones", str(tmp_path / "list.txt")),)
    happy = [f"{path} happy" for path in faces.glob("happy/*.png")]
    (tmp_path / "list.txt").write_text("\n".join(happy))
    assert main.execute(config, tmp_path / "run") == 0
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    some, again = (result["sets"]["wild"][name]["accuracy"] for name in ("some", "again"))
    assert some == again == result["means"]["wild"]
    posed = result["sets"]["posed"]["happy ones"]
    assert posed["faces"] == len(happy)
    np.testing.assert_allclose(result["means"]["overall"], (2 * some + posed["accuracy"]) / 3)
    assert "mean, overall" in capsys.readouterr().out
    assert (tmp_path / "run" / "report" / "confusions.png").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"ltnet.coder_weights": (1.0,)}, "coder_weights: 1 numbers for the 4 coders east, west"),
        ({"annotate.shard_size": 20}, "shard_size 20 is no multiple of batch_size 16"),
        ({"data.sets.west.coders": ()}, "machine_west: no training face was annotated by east"),
        ({"data.sets.west.image_size": 28}, "faces of unlabelled are 24×24×3, those of west 28×"),
        ({"data.sets.west.coders": ("machine_east",)}, "a coder must not be named 'machine_east'"),
        ({"union.sets": ("north",)}, "sets: no dataset 'north', there are east, unlabelled, west"),
        (
            {"ltnet.coders": ("east", "nobody")},
            "ltnet: coders: no coder 'nobody', there are east, west, m",
        ),
        ({"union.set_weights": (1.0,)}, "set_weights: 1 numbers for the 3 datasets of data.sets"),
        ({"comparators": ("em", "em")}, "stages names 'em' twice"),
        ({"comparators": ("union",)}, "stages names 'union' twice"),
        ({"comparators": ("magic",)}, "stages names 'magic', but the config has no recipe"),
        ({"headline": "magic"}, "headline 'magic' is not among stages machine_east, machine_west"),
        (
            {"union.label": "inferred", "union.needs.truth": ""},
            "union: supervised needs a stage: set needs.truth",
        ),
        ({"union.needs": {"network": "ltnet"}}, "stages need each other in a circle"),
        (
            {"machine_east.sets": (), "machine_east.unlabelled": True},
            "annotate_east: there is no training face that machine_east did not learn from",
        ),
        ({"annotate_east.kind": "guess"}, "annotate_east.kind 'guess' is none of train, annotate"),
        ({"consensus.start": "magic", "comparators": ("em",)}, "consensus: truth inference: init"),
        (
            {"headline": "annotate_east", "stages": ("annotate_east",)},
            "a stage that trains nothing",
        ),
    ],
)
def test_mistakes_are_one_line_before_anything_is_trained(tmp_path, capsys, changes, words):
    if "data.sets.west.coders" in changes:
        changes["data.sets.west.confusions"] = ()
    assert main.execute(small(**changes), tmp_path / "run") == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("config", "changes", "words"),
    [
        (annotate_config, {}, "trained is not set"),
        (annotate_config, {"trained": "RUN"}, "path is not set"),
        (
            annotate_config,
            {"trained": "RUN", "path": "EMPTY"},
            "no picture (jpg, jpeg, jpe, jfif, png, webp, bmp,",
        ),
        (annotate_config, {"trained": "EMPTY", "path": "EMPTY"}, "holds no run"),
        (annotate_config, {"trained": "RUN", "path": "EMPTY", "stage": "x"}, "no finished stage"),
        (evaluate_config, {"trained": "RUN"}, "groups: no test set"),
        (
            evaluate_config,
            {"trained": "RUN", "batch_size": 12},
            "multiple of the 8 devices, not 12",
        ),
        (evaluate_config, {"trained": "RUN", "groups.wild": ("a", "b")}, "expected pairs ('NAME'"),
        (evaluate_config, {"trained": "RUN", "groups.wild": (("a", 2),)}, "expected pairs ('NAME'"),
        (
            evaluate_config,
            {"trained": "RUN", "groups.wild": (("a", "b"),), "groups.posed": (("a", "b"),)},
            "'a' is named twice",
        ),
    ],
)
def test_mistakes_with_a_trained_model_are_one_line(
    finished, faces, tmp_path, capsys, config, changes, words
):
    made = config.get_config()
    places = {"RUN": str(finished), "EMPTY": str(tmp_path)}
    made.update_from_flattened_dict(
        {name: places.get(value, value) for name, value in changes.items()}
    )
    if config is annotate_config:
        made.annotate.batch_size = made.annotate.shard_size = 8
    elif "groups.wild" not in changes:
        made.batch_size = changes.get("batch_size", 8)
    else:
        made.batch_size = 8
    assert main.execute(made, tmp_path / "run") == 1
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run" / "result.json").exists()


def test_damage_in_what_is_evaluated_is_named_before_anything_is_written(
    finished, tmp_path, capsys
):
    (tmp_path / "happy").mkdir()
    (tmp_path / "happy/a.png").write_bytes(b"no picture")
    config = evaluate_config.get_config()
    config.batch_size, config.groups.wild = 8, (("a", str(tmp_path)),)
    config.trained = str(finished)
    assert main.execute(config, tmp_path / "run") == 1
    assert "happy/a.png is not a readable picture" in capsys.readouterr().err
    stage = tmp_path / "damaged/stages/ltnet/stage.json"
    stage.parent.mkdir(parents=True)
    stage.write_text("{")
    shutil.copy(finished / "config.json", tmp_path / "damaged")
    config.trained = str(tmp_path / "damaged")
    assert main.execute(config, tmp_path / "run") == 1
    assert "ltnet/stage.json is damaged" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_ltnet_may_learn_from_some_coders_and_sets_alone(tmp_path):
    """A weight of nothing for a set that a machine is trained on, and a machine coder left out.

    Which faces are held out hangs on those of them who annotated before the machines did.
    """
    changes = {"ltnet.coders": ("east", "machine_west"), "ltnet.coder_weights": (1.0, 1.0)}
    changes |= {"ltnet.set_weights": (1.0, 1.0, 0.0), "data.validation": 0.25}
    plan = train.plan(small(**changes), tmp_path)
    names = ["machine_east", "machine_west", "union", "annotate_east", "annotate_west", "ltnet"]
    assert [stage.name for stage in plan.stages] == names


def test_truth_is_inferred_once_in_a_run_and_not_again_when_it_is_opened(tmp_path, monkeypatch):
    calls, infer = [], crowd.dawid_skene

    def counted(*arguments, **options):
        calls.append(options["start"])
        return infer(*arguments, **options)

    monkeypatch.setattr(crowd, "dawid_skene", counted)
    changes = {"stages": ("em", "ltnet"), "headline": "em"}
    changes |= {"ltnet.transition.start": "dawid_skene", "ltnet.coders": ()}
    assert main.execute(small(**changes), tmp_path) == 0
    assert main.execute(small(**changes), tmp_path) == 0
    assert calls == ["majority"]  # by stages; each report weighs the coders by itself
    with np.load(tmp_path / "stages/consensus/consensus.npz") as saved:
        given = saved["posteriors"].argmax(axis=1)
    with np.load(tmp_path / "stages/em/predictions.npz") as saved:
        np.testing.assert_array_equal(saved["given"], given[saved["rows"]])


def _error(capsys):
    return capsys.readouterr().err
