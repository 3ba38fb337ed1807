"""The blocks of docs/repeating_paper_1.md that need weights, on samples in the layout of HEST-1k, without the networks."""

from __future__ import annotations

import re
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import tifffile
from scipy.sparse import csr_matrix

import histocell as hc
from histocell.datasets.cohorts import COHORTS

PAGE = Path(__file__).parents[1] / "docs" / "repeating_paper_1.md"
SKIPPED = re.findall(
    r"^<!-- not run: needs weights -->\n```python\n(.*?)^```", PAGE.read_text("utf-8"), re.DOTALL | re.M
)
DIMS = {"conch": 8, "uni": 16, "uni2-h": 12}


def write_samples(folder: Path, sdata, name: str, patients: str, first: int) -> None:
    """Sections of synthetic patients, from the one of that number on, as samples of a cohort."""
    for part in ("st", "wsis"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    spots, samples = sdata["table"], COHORTS[name].samples
    for number, sample in enumerate(samples, start=first):
        here = spots[spots.obs["section"] == f"P{number}S1"]
        obs = pd.DataFrame(index=[f"{place}x1" for place in range(here.n_obs)])
        counts = ad.AnnData(csr_matrix(here.X), obs=obs, var=here.var, obsm={"spatial": here.obsm["spatial"]})
        counts.write_h5ad(folder / "st" / f"{sample}.h5ad")
        pixels = np.moveaxis(sdata[f"he-P{number}S1"].to_numpy(), 0, -1)
        tifffile.imwrite(folder / "wsis" / f"{sample}.tif", pixels, tile=(256, 256), photometric="rgb")
    table = pd.DataFrame({"id": samples, "dataset_title": name, "patient": [f"Patient {each}" for each in patients]})
    table = table.assign(spot_diameter=50, pixel_size_um_estimated=0.5)
    table.to_csv(folder / f"HEST_{name}.csv", index=False)


def fake_embed(data, encoder, *, store):
    """Colours of the patch, in random directions."""
    assert store == f"data/features/{'her2st' if 'he-SPA148' in data.images else 'stnet'}-{encoder}"
    colours = hc.pp.embed_image(data, "morphology", inplace=False)[:, :8]
    directions = np.random.default_rng(DIMS[encoder]).normal(size=(8, DIMS[encoder]))
    data["table"].obsm[f"X_{encoder}"] = (np.nan_to_num(colours) @ directions).astype(np.float32)


@pytest.mark.filterwarnings("ignore:.*(have no counts|fewer than 10 reference cells)")
def test_data_of_the_paper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hc.settings, "data_dir", hc.settings.data_dir)  # the page changes it
    sdata = hc.datasets.synthetic_tissue(5, size_px=500, spot_pitch_um=50, spot_diameter_um=50, rng=3)
    for name, first, last, patients in (("her2st", 147, 149, "ABC"), ("stnet", 51, 52, "YZ")):
        monkeypatch.setitem(COHORTS, name, COHORTS[name]._replace(first=first, last=last, n_patients=len(patients)))
        write_samples(tmp_path / "data/hest", sdata, name, patients, first=1 if name == "her2st" else 4)
    cells = sdata["cell_table"]
    cells.obs["author_cell_type"] = cells.obs["cell_type"]
    cells.write_h5ad("data/breast_atlas.h5ad")
    data, names = SKIPPED
    assert 'method="cell2location"' in data
    data = data.replace("hc.pp.embed_image(", "embed_image(").replace("cell2location", "nnls")
    namespace: dict[str, object] = {"embed_image": fake_embed}
    with pytest.warns(UserWarning, match=r"samples, . patients, .* where HEST-1k 1\.1\.0 has"):
        exec(compile(data, "data of the paper", "exec"), namespace)
    exec(compile(names, "names of the paper", "exec"), namespace)
    her2st, stnet = ad.read_h5ad("her2st.h5ad"), ad.read_h5ad("stnet.h5ad")
    sets = namespace["sets"]
    assert namespace["main"] in sets
    for keys in sets.values():
        for key in [keys] if isinstance(keys, str) else keys:
            assert key in her2st.obsm
            assert key in stnet.obsm
    assert set(her2st.obs.loc[her2st.obs["section"] == namespace["section"], "patient"]) == {namespace["patient"]}
    scores = hc.bench.leave_one_group_out(her2st, {"main": sets[namespace["main"]]}, models="ridge", n_bootstrap=10)
    assert {"Patient A", "Patient B", "Patient C"} < set(scores["group"])
    scores = hc.bench.cross_dataset(her2st, stnet, sets["UNI"], models="ridge", n_bootstrap=10)
    assert np.isfinite(scores.query("metric == 'l1' and cell_type == 'mean'")["value"]).all()
