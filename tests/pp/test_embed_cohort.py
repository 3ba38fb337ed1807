from __future__ import annotations

import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import tifffile
from spatialdata import SpatialData, read_zarr

import histocell as hc
from histocell._core import keys
from histocell._core.locks import folder_lock
from histocell.encoders import registry
from histocell.encoders.inference.store import FeatureStore
from histocell.encoders.spec import EncoderSpec
from histocell.images.slide_image import open_image
from histocell.pp._cohort import slide as cohort_slide

if TYPE_CHECKING:
    from pathlib import Path

SIZE_UM = 60.0


def write_slide(path: Path, pixels: np.ndarray) -> Path:
    tifffile.imwrite(
        path, pixels, photometric="rgb", tile=(128, 128), resolution=(20_000, 20_000), resolutionunit="CENTIMETER"
    )
    return path


@pytest.fixture
def slides(tissue: SpatialData, tmp_path: Path) -> list[Path]:
    """Three small slides of 0.5 um per px."""
    image = open_image(tissue["he"])
    pixels = image.read(0, 0, *image.shape)
    folder = tmp_path / "slides"
    folder.mkdir()
    return [
        write_slide(folder / "a.tif", pixels),
        write_slide(folder / "b.ome.tif", pixels[::-1]),
        write_slide(folder / "c.tif", pixels[:, ::-1]),
    ]


@pytest.fixture
def truncated(slides: list[Path]) -> Path:
    path = slides[0].with_name("half.tif")
    content = slides[0].read_bytes()
    path.write_bytes(content[: len(content) // 2])
    return path


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    """A small transformer, registered in this process alone."""
    spec = EncoderSpec(
        name="tiny", library="timm", arch="vit_tiny_patch16_224", arch_kwargs={"img_size": 32, "depth": 1}, input_px=32
    )
    registry.list_encoders()
    monkeypatch.setitem(registry._REGISTRY, "tiny", spec)
    return "tiny"


def by_hand(path: Path, encoder: str = "morphology", **options) -> SpatialData:
    sdata = hc.io.slide(path)
    hc.pp.tissue_mask(sdata)
    hc.pp.tiles(sdata, size_um=SIZE_UM)
    hc.pp.embed_image(sdata, encoder, **options)
    return sdata


def test_the_result_is_that_of_the_single_steps(slides, tmp_path):
    report = hc.pp.embed_cohort(slides, out=tmp_path / "out", size_um=SIZE_UM)
    assert list(report.columns) == ["path", "output", "status", "n_tiles", "seconds", "error"]
    assert list(report["path"]) == [str(path) for path in slides]
    assert list(report["status"]) == ["done"] * 3
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.zarr", "b.zarr", "c.zarr"}
    for path, row in zip(slides, report.itertuples(), strict=True):
        found, expected = read_zarr(row.output), by_hand(path)
        table, truth = found["tile_table"], expected["tile_table"]
        assert row.n_tiles == truth.n_obs > 5
        pd.testing.assert_frame_equal(table.obs[truth.obs.columns], truth.obs, check_categorical=False)
        for key in ("X_morphology", "patches", "spatial"):
            np.testing.assert_array_equal(np.asarray(table.obsm[key]), truth.obsm[key])
        facts = keys.read_provenance(table, "X_morphology")
        assert facts == keys.read_provenance(truth, "X_morphology")
        assert found["tissue"].geometry.geom_equals_exact(expected["tissue"].geometry, 1e-6).all()
        assert found["tiles"].geometry.geom_equals_exact(expected["tiles"].geometry, 1e-6).all()
        assert table.obs["section"].tolist() == [path.name.partition(".")[0]] * table.n_obs
        assert found.attrs["histocell"]["slide"] == str(path)
        assert found.attrs["histocell"]["mpp_source"] == "tiff"


def test_tissue_is_found_once(slides, tmp_path, monkeypatch):
    from histocell.images import tissue
    from histocell.pp import _tissue

    calls = []

    def counted(image, find=tissue.find_tissue, **options):
        calls.append(image)
        return find(image, **options)

    for module in (tissue, _tissue):
        monkeypatch.setattr(module, "find_tissue", counted)
    hc.pp.embed_cohort(slides[:2], out=tmp_path / "out", size_um=SIZE_UM)
    assert len(calls) == 2


def test_the_thumbnail_lies_under_the_tiles(tmp_path, slides, monkeypatch, user_sees):
    from spatialdata.transformations import get_transformation

    monkeypatch.setattr(cohort_slide, "THUMBNAIL_PX", 100)
    report = hc.pp.embed_cohort(slides[:1], out=tmp_path / "out", size_um=SIZE_UM)
    thumbnail = read_zarr(report["output"][0])["thumbnail"]
    height, width = open_image(slides[0]).shape
    assert thumbnail.shape == (3, 100, 100)
    again = read_zarr(report["output"][0])
    with user_sees("Slides", "a result of a cohort, whose slide is not there, embedded", ValueError, match="thumbnail"):
        hc.pp.embed_image(again, table_key="tile_table")
    again.images["he"] = hc.io.slide(slides[0])["he"]
    found = hc.pp.embed_image(again, table_key="tile_table", inplace=False)
    np.testing.assert_array_equal(found, np.asarray(again["tile_table"].obsm["X_morphology"]))
    for system, scale in (("global", 1.0), ("um", 0.5)):
        matrix = get_transformation(thumbnail, system).to_affine_matrix(("x", "y"), ("x", "y"))
        np.testing.assert_allclose(matrix @ [100, 100, 1], [width * scale, height * scale, 1])


def test_a_second_run_skips_what_is_done(slides, truncated, tmp_path):
    paths = [slides[0], truncated, slides[1]]
    for status in ("done", "skipped"):
        with pytest.warns(UserWarning, match=r"1 of 3 slides failed.*half\.tif: OSError: .*truncated"):
            report = hc.pp.embed_cohort(paths, out=tmp_path / "out", size_um=SIZE_UM)
        assert list(report["status"]) == [status, "failed", status]
        assert report["n_tiles"][1] == 0 < report["n_tiles"][0]
        assert "truncated" in report["error"][1]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.zarr", "b.zarr"}
    (tmp_path / "out" / "a.store").mkdir()  # a run killed between its last two steps leaves it
    report = hc.pp.embed_cohort([*slides], out=tmp_path / "out", size_um=SIZE_UM)
    assert list(report["status"]) == ["skipped", "skipped", "done"]
    assert not (tmp_path / "out" / "a.store").exists()


def test_other_settings_are_not_mixed(slides, tmp_path, tiny):
    out = tmp_path / "out"
    hc.pp.embed_cohort(slides[:1], out=out, size_um=SIZE_UM)
    with pytest.raises(ValueError, match=r"a\.zarr was made with other settings: .*size_um is 60\.0, now 80\.0"):
        hc.pp.embed_cohort(slides, out=out, size_um=80)
    with pytest.raises(
        ValueError, match=r'encoder is "morphology", now "tiny"; weights is "2", now "random".*overwrite'
    ):
        hc.pp.embed_cohort(slides, tiny, weights="random", out=out, size_um=SIZE_UM)
    with pytest.raises(ValueError, match=r"stain is null, now .*reinhard"):
        hc.pp.embed_cohort(slides, stain="reinhard", out=out, size_um=SIZE_UM)
    assert {path.name for path in out.iterdir()} == {"a.zarr"}
    report = hc.pp.embed_cohort(slides[:1], tiny, weights="random", out=out, size_um=SIZE_UM, overwrite=True)
    assert list(report["status"]) == ["done"]
    assert set(read_zarr(out / "a.zarr")["tile_table"].obsm) == {"X_tiny", "patches", "spatial"}
    write_slide(slides[0], np.full((300, 300, 3), 200, np.uint8))
    with pytest.raises(ValueError, match="bytes is"):
        hc.pp.embed_cohort(slides[:1], tiny, weights="random", out=out, size_um=SIZE_UM)


def test_a_slide_of_the_same_size_is_another_one(slides, tmp_path):
    out = tmp_path / "out"
    hc.pp.embed_cohort(slides[:1], out=out, size_um=SIZE_UM)
    status, content_before = slides[0].stat(), slides[0].read_bytes()
    pixels = open_image(slides[0]).read(0, 0, *open_image(slides[0]).shape)
    write_slide(slides[0], pixels[::-1])
    os.utime(slides[0], ns=(status.st_atime_ns, status.st_mtime_ns))
    assert slides[0].stat().st_size == status.st_size
    with pytest.raises(ValueError, match=r"a\.zarr was made with other settings: content is "):
        hc.pp.embed_cohort(slides[:1], out=out, size_um=SIZE_UM)
    slides[0].write_bytes(content_before)  # touched, and the same
    assert list(hc.pp.embed_cohort(slides[:1], out=out, size_um=SIZE_UM)["status"]) == ["skipped"]


def test_a_slide_that_nobody_touched_is_not_read_again(slides, tmp_path, monkeypatch):
    from histocell.images import identity

    out = tmp_path / "out"
    hc.pp.embed_cohort(slides[:1], out=out, size_um=SIZE_UM)
    identity._file_checksum.cache_clear()
    monkeypatch.setattr(identity, "_checksum_of_block", None)
    assert list(hc.pp.embed_cohort(slides[:1], out=out, size_um=SIZE_UM)["status"]) == ["skipped"]


def test_weights_with_another_config_are_others(slides, tmp_path, tiny):
    """The same tensors, another activation: a file beside the weights says so."""
    import json

    import timm
    from safetensors.torch import save_file

    folder = tmp_path / "weights"
    folder.mkdir()
    network = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=1, num_classes=0)
    save_file(network.state_dict(), folder / "model.safetensors")
    options = {"weights": folder, "out": tmp_path / "out", "size_um": SIZE_UM, "batch_size": 8}
    (folder / "config.json").write_text(json.dumps({"model_args": {"act_layer": "gelu"}}))
    assert list(hc.pp.embed_cohort(slides[:1], tiny, **options)["status"]) == ["done"]
    (folder / "config.json").write_text(json.dumps({"model_args": {"act_layer": "relu"}}))
    with pytest.raises(ValueError, match="weights is"):
        hc.pp.embed_cohort(slides[:1], tiny, **options)


@pytest.mark.parametrize("overwrite", [False, True])
def test_data_of_others_is_left_alone(slides, tmp_path, overwrite):
    mine = tmp_path / "out" / "a.zarr"
    by_hand(slides[0]).write(mine) if overwrite else (mine.mkdir(parents=True), (mine / "x.txt").write_text("mine"))
    before = sorted(mine.rglob("*"))
    with pytest.raises(FileExistsError, match=r"a\.zarr exists and was not made by"):
        hc.pp.embed_cohort(slides, out=tmp_path / "out", overwrite=overwrite)
    assert sorted(mine.rglob("*")) == before


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("done", [False, True])
def test_a_store_of_others_is_left_alone(slides, tmp_path, overwrite, done):
    """Whether or not the slide is done, which is when the store would be deleted."""
    out = tmp_path / "out"
    if done:
        hc.pp.embed_cohort(slides[:1], out=out, size_um=SIZE_UM)
    mine = out / "a.store"
    (mine / "tiles").mkdir(parents=True)
    (mine / "tiles" / "spots.csv").write_text("mine")
    (mine / "result.partial").mkdir()
    (mine / "result.partial" / "notes.txt").write_text("mine")
    before = content(out)
    with pytest.raises(FileExistsError, match=r"a\.store was not made by hc.pp.embed_cohort"):
        hc.pp.embed_cohort(slides, out=out, size_um=SIZE_UM, overwrite=overwrite)
    assert content(out) == before


def test_what_the_user_sees_of_a_store_of_theirs(slides, tmp_path, user_sees):
    (tmp_path / "out" / "a.store").mkdir(parents=True)
    (tmp_path / "out" / "a.store" / "notes.txt").write_text("mine")
    with user_sees("Files", "`a.store` of the user's where a slide is embedded", FileExistsError, match="not made by"):
        hc.pp.embed_cohort(slides[:1], out=tmp_path / "out", size_um=SIZE_UM)
    assert (tmp_path / "out" / "a.store" / "notes.txt").read_text() == "mine"


def interrupted(slides: list[Path], out: Path) -> Path:
    """The store of a slide that was stopped when all its features were there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SpatialData, "write", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            hc.pp.embed_cohort(slides[:1], out=out, size_um=SIZE_UM)
    return out / "a.store"


@pytest.mark.parametrize("place", [".", "tiles"])
def test_what_was_added_to_a_store_is_not_lost(slides, tmp_path, place):
    out = tmp_path / "out"
    notes = interrupted(slides, out) / place / "notes.txt"
    notes.write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match="something was added"):
            hc.pp.embed_cohort(slides[:1], out=out, size_um=SIZE_UM, overwrite=overwrite)
        assert notes.read_text() == "mine"
    notes.unlink()
    report = hc.pp.embed_cohort(slides[:1], out=out, size_um=SIZE_UM, overwrite=True)
    assert list(report["status"]) == ["done"]
    assert [path.name for path in out.iterdir()] == ["a.zarr"]


@pytest.mark.parametrize("place", ["notes.txt", "shapes/annotations/x", "images/mine.png"])
def test_what_was_added_to_a_result_is_not_lost(slides, tmp_path, place):
    out = tmp_path / "out"
    hc.pp.embed_cohort(slides[:1], out=out, size_um=SIZE_UM)
    added = out / "a.zarr" / place
    added.parent.mkdir(exist_ok=True)
    added.write_text("mine")
    assert list(hc.pp.embed_cohort(slides[:1], out=out, size_um=SIZE_UM)["status"]) == ["skipped"]
    with pytest.raises(FileExistsError, match=r"a\.zarr would be replaced but holds what was added"):
        hc.pp.embed_cohort(slides[:1], out=out, size_um=SIZE_UM, overwrite=True)
    assert added.read_text() == "mine"


@pytest.mark.skipif(os.name != "posix", reason="links as POSIX has them")
def test_links_are_not_replaced(slides, tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    hc.pp.embed_cohort(slides[:1], out=elsewhere, size_um=SIZE_UM)
    before = content(elsewhere)
    out.mkdir()
    (out / "a.zarr").symlink_to(elsewhere / "a.zarr")
    assert list(hc.pp.embed_cohort(slides[:1], out=out, size_um=SIZE_UM)["status"]) == ["skipped"]
    with pytest.raises(FileExistsError, match="is a link"):
        hc.pp.embed_cohort(slides[:1], out=out, size_um=SIZE_UM, overwrite=True)
    (out / "a.zarr").unlink()
    (out / "a.store").symlink_to(elsewhere)
    with pytest.raises(FileExistsError, match=r"a\.store was not made by"):
        hc.pp.embed_cohort(slides[:1], out=out, size_um=SIZE_UM, overwrite=True)
    assert content(elsewhere) == before


def test_a_store_that_another_run_writes_is_not_deleted(slides, tmp_path):
    out = tmp_path / "out"
    store = interrupted(slides, out)
    with folder_lock(store), pytest.warns(UserWarning, match=r"1 of 2 slides failed.* is writing into .*a\.store"):
        report = hc.pp.embed_cohort(slides[:2], out=out, size_um=SIZE_UM, overwrite=True)
    assert list(report["status"]) == ["failed", "done"]
    assert (store / "tiles" / "zarr.json").exists()


def test_a_result_that_appears_meanwhile_is_kept(slides, tmp_path, monkeypatch):
    """A folder of the user's that was not there when the run began."""
    out = tmp_path / "out"
    write = SpatialData.write

    def slow(self, path, **options):
        (out / "a.zarr").mkdir()
        (out / "a.zarr" / "notes.txt").write_text("mine")
        write(self, path, **options)

    monkeypatch.setattr(SpatialData, "write", slow)
    with pytest.warns(UserWarning, match=r"1 of 1 slides failed.*was not made by hc\.pp\.embed_cohort"):
        hc.pp.embed_cohort(slides[:1], out=out, size_um=SIZE_UM)
    assert content(out / "a.zarr") == {"notes.txt": b"mine"}
    assert (out / "a.store" / "tiles" / "c.0.0").exists()


def test_a_file_has_the_name_of_the_folder(slides, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(NotADirectoryError, match="out is a file, not a folder"):
        hc.pp.embed_cohort(slides, out=tmp_path / "out")


def test_a_damaged_result_is_not_taken_for_one(slides, tmp_path):
    out = tmp_path / "out"
    hc.pp.embed_cohort(slides[:1], out=out, size_um=SIZE_UM)
    file = out / "a.zarr" / "zarr.json"
    whole = file.read_text()
    for text in (whole[:100], "", "[]", whole.replace('"n_tiles"', '"tiles"'), whole.replace('"settings"', '"set"')):
        file.write_text(text)
        with pytest.raises(FileExistsError, match=r"a\.zarr exists and was not made by .* or is damaged"):
            hc.pp.embed_cohort(slides[:1], out=out, size_um=SIZE_UM)
        assert file.read_text() == text


def test_an_interrupted_run_goes_on(slides, tmp_path, monkeypatch):
    out = tmp_path / "out"
    computed = []
    write = FeatureStore.write

    def counted(self, chunk, features):
        computed.append(chunk)
        write(self, chunk, features)

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(FeatureStore, "write", counted)
    with monkeypatch.context() as patch:
        patch.setattr(SpatialData, "write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            hc.pp.embed_cohort(slides[:1], out=out, size_um=SIZE_UM)
    assert [path.name for path in out.iterdir()] == ["a.store"]
    (out / "a.store" / "result.partial").mkdir()  # half a result
    n = len(computed)
    report = hc.pp.embed_cohort(slides[:1], out=out, size_um=SIZE_UM)
    assert n == len(computed) > 0
    assert [path.name for path in out.iterdir()] == ["a.zarr"]
    assert list(report["status"]) == ["done"]
    expected = by_hand(slides[0])["tile_table"].obsm["X_morphology"]
    np.testing.assert_array_equal(np.asarray(read_zarr(out / "a.zarr")["tile_table"].obsm["X_morphology"]), expected)


def test_slides_without_tissue_or_resolution(slides, tmp_path):
    blank = write_slide(tmp_path / "blank.tif", np.full((300, 300, 3), 245, np.uint8))
    tifffile.imwrite(tmp_path / "unknown.tif", np.full((300, 300, 3), 245, np.uint8), photometric="rgb")
    absent = tmp_path / "absent.svs"
    paths = [blank, tmp_path / "unknown.tif", absent, slides[0]]
    with pytest.warns(UserWarning, match="3 of 4 slides failed"):
        report = hc.pp.embed_cohort(paths, out=tmp_path / "out", size_um=SIZE_UM)
    assert list(report["status"]) == ["failed"] * 3 + ["done"]
    for error, says in zip(report["error"], ["no tissue", "give mpp=", "does not exist"], strict=False):
        assert says in error
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.zarr"]


def test_what_cannot_begin(slides, tmp_path):
    with pytest.raises(ValueError, match="paths is empty"):
        hc.pp.embed_cohort([], out=tmp_path / "out")
    with pytest.raises(ValueError, match=r"several slides are called a,"):
        hc.pp.embed_cohort([*slides, tmp_path / "a.svs"], out=tmp_path / "out")
    with pytest.raises(KeyError, match="unii"):
        hc.pp.embed_cohort(slides, "unii", out=tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"absent\.safetensors"):
        hc.pp.embed_cohort(slides, "uni", weights=tmp_path / "absent.safetensors", out=tmp_path / "out")
    with pytest.raises(ValueError, match="nucleus|pool"):
        hc.pp.embed_cohort(slides, pool="cls", out=tmp_path / "out")


@pytest.fixture(scope="module")
def client():
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        yield client


def test_workers_give_the_same(slides, truncated, tmp_path, tiny, client):
    paths = [slides[0], truncated, *slides[1:]]
    options = {"weights": "random", "size_um": SIZE_UM, "precision": "fp32", "batch_size": 8}
    for status in ("done", "skipped"):
        with pytest.warns(UserWarning, match=r"1 of 4 slides failed.*half\.tif"):
            report = hc.pp.embed_cohort(paths, tiny, out=tmp_path / "out", client=client, **options)
        assert list(report["status"]) == [status, "failed", status, status]
        assert list(report["path"]) == [str(path) for path in paths]
    alone = hc.pp.embed_cohort(slides, tiny, out=tmp_path / "alone", **options)
    done = report[report["status"] != "failed"]
    assert list(done["n_tiles"]) == list(alone["n_tiles"])
    for one, other in zip(done["output"], alone["output"], strict=True):
        found, expected = (np.asarray(read_zarr(path)["tile_table"].obsm["X_tiny"]) for path in (one, other))
        np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.skipif(os.name != "posix", reason="kills as POSIX does")
def test_a_killed_worker_loses_nothing(slides, tmp_path, client):
    killed = []

    def kill() -> None:
        pids = client.run(os.getpid)
        end = time.monotonic() + 30
        while not killed and time.monotonic() < end:
            for worker, tasks in client.processing().items():
                if tasks and worker in pids:
                    os.kill(pids[worker], signal.SIGKILL)
                    killed.append(worker)
                    break
            time.sleep(0.02)

    thread = threading.Thread(target=kill)
    thread.start()
    report = hc.pp.embed_cohort(slides, out=tmp_path / "out", size_um=SIZE_UM, client=client)
    thread.join()
    assert len(killed) == 1
    assert list(report["status"]) == ["done"] * 3
    for path, output in zip(slides, report["output"], strict=True):
        found = np.asarray(read_zarr(output)["tile_table"].obsm["X_morphology"])
        np.testing.assert_allclose(found, by_hand(path)["tile_table"].obsm["X_morphology"], rtol=1e-5, atol=1e-5)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"a.zarr", "b.zarr", "c.zarr"}
