from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

import histocell as hc


@pytest.fixture(scope="module")
def run():
    sdata = hc.datasets.synthetic_tissue(3, n_patients=3, size_px=600, spot_pitch_um=60, rng=0)
    hc.pp.patches(sdata)
    hc.pp.embed_image(sdata, "morphology")
    hc.pp.split(sdata, by="patient", test=["P3"])
    hc.tl.fit_abundance(sdata, model="ridge")
    hc.tl.predict_abundance(sdata)
    hc.tl.evaluate_abundance(sdata, n_bootstrap=20)
    hc.tl.colocalization(sdata, "predicted_abundance", table_key="table")
    return sdata


@pytest.fixture(scope="module")
def page(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "run.html"
    hc.pl.report(run, path, section="P3S1", title="Slides <3> & more", table_key="table")
    return path


class _Tags(HTMLParser):
    void = {"img", "meta", "br"}

    def __init__(self):
        super().__init__()
        self.open, self.sources = [], []

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in {"src", "href"}]
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_one_file_that_loads_nothing(page):
    text = page.read_text(encoding="utf-8")
    tags = _Tags()
    tags.feed(text)
    assert tags.open == []
    assert len(tags.sources) == 3  # map, scores, co-localization
    assert all(source.startswith("data:image/png;base64,") for source in tags.sources)
    assert re.findall(r"https?://|url\(|@import|<script", text) == []
    assert "Slides &lt;3&gt; &amp; more" in text


def test_says_what_is_there_and_what_to_be_careful_about(page, run):
    text = page.read_text(encoding="utf-8")
    for heading in ("Predicted abundance: P3S1", "Abundance evaluation", "Co-localization", "How it was computed"):
        assert f"<h2>{heading}</h2>" in text
    assert "Maps show 1 of 3 sections" in text
    scores = hc.get.scores(run, table_key="table")
    value = scores.query("cell_type == 'mean' and group == 'all' and metric == 'l1' and model == 'ridge'")[
        "value"
    ].item()
    assert f"<td>{value:.3g}</td>" in text
    outside = int((~run["table"].obs["patch_inside"]).sum())
    assert f"{outside} of {run['table'].n_obs} patches reach beyond the image" in text


def test_warns_of_trained_rows_and_novel_ones(run, tmp_path):
    table = run["table"].copy()
    table.uns["abundance_evaluation"]["n_training"] = 7
    table.obs["predicted_abundance_novelty"] = np.where(np.arange(table.n_obs) < table.n_obs // 2, 3.0, 1.0)
    del table.obs["split"]
    hc.pl.report(table, tmp_path / "run.html", image=False)
    text = (tmp_path / "run.html").read_text(encoding="utf-8")
    for part in ("7 of the scored rows were seen by the model", "% of the rows lie further", "There is no split"):
        assert part in text


def test_leaves_figures_of_the_user_alone(run, tmp_path):
    figure = plt.figure()
    hc.pl.report(run, tmp_path / "run.html", section="P3S1", table_key="table")
    assert plt.get_fignums() == [figure.number]
    plt.close(figure)


def test_replaces_its_own_page_and_no_other(run, tmp_path, user_sees):
    for _ in range(2):
        hc.pl.report(run, tmp_path / "run.html", section="P3S1", table_key="table")
    (tmp_path / "other.html").write_text("mine")
    with user_sees("Report", "a file of the user at the path", FileExistsError, match="other.html"):
        hc.pl.report(run, tmp_path / "other.html", table_key="table")
    assert (tmp_path / "other.html").read_text() == "mine"


def test_bad_input(run, tmp_path, user_sees):
    with user_sees("Report", "a path that is no page", ValueError, match=r"ends in .html"):
        hc.pl.report(run, tmp_path / "run.pdf", table_key="table")
    with user_sees("Report", "a section that is not there", KeyError, match="P9S1"):
        hc.pl.report(run, tmp_path / "run.html", section="P9S1", table_key="table")
    table = run["table"].copy()
    for slot in list(table.obsm):
        if slot != "spatial":
            del table.obsm[slot]
    table.uns.clear()
    with user_sees("Report", "data without a result", ValueError, match="nothing to report"):
        hc.pl.report(table, tmp_path / "run.html")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """The command of a browser that starts here."""
    if shutil.which("chromium") is None:
        pytest.skip("needs Chromium")
    quiet = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-sync"]
    quiet += ["--disable-component-update", "--disable-dev-shm-usage", "--hide-scrollbars"]
    profile = tmp_path_factory.mktemp("browser") / "profile"
    command = ["chromium", "--headless", "--no-sandbox", *quiet, f"--user-data-dir={profile}"]
    try:
        blank = subprocess.run([*command, "--dump-dom", "about:blank"], capture_output=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        blank = None
    if blank is None or blank.returncode:
        pytest.skip("Chromium does not start here")
    return command


@pytest.mark.parametrize("width", [1200, 500])
def test_opens_in_a_browser(page, width, chromium, tmp_path):
    picture = tmp_path / "page.png"
    command = [*chromium, f"--window-size={width},2000", f"--screenshot={picture}", page.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    pixels = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    assert pixels.shape[:2] == (2000, width)
    colorful = np.ptp(pixels, axis=2) > 60
    assert colorful.sum() > 0.02 * colorful.size  # maps are drawn
    assert (pixels[:, -8:].min(axis=2) > 240).mean() > 0.9  # nothing runs over the edge
