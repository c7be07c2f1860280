"""The page in a browser: what is there to read, in light and dark, on a phone and on paper."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from pipelines import ANNOTATED, trained

from spacy_bertft.jobs.report.make import make_report

pytestmark = [pytest.mark.touches_transformers, pytest.mark.slow]

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge", "microsoft-edge")
BROWSER = os.environ.get("SPACY_BERTFT_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)
needs_browser = pytest.mark.skipif(
    BROWSER is None, reason=f"needs a browser: install one of {', '.join(NAMES)}, or set SPACY_BERTFT_BROWSER to one"
)
DARK = "--blink-settings=preferredColorScheme=0"
LIGHT = "--blink-settings=preferredColorScheme=1"
# Run in a copy of the page, which itself has no script.
MEASURE = """
<script>
addEventListener("load", () => {
  const root = document.documentElement
  const hidden = part => part.closest(".scroll, .spans, nav, details, svg, .bar")
  const wide = [...document.querySelectorAll("body *")].filter(part =>
    !hidden(part) && part.getBoundingClientRect().right > root.clientWidth + 1)
  const drawn = [...document.querySelectorAll("svg.chart path, svg.chart use")]
  parent.postMessage(JSON.stringify({
    width: innerWidth,
    scroll: root.scrollWidth,
    wide: wide.map(part => part.outerHTML.slice(0, 80)),
    back: getComputedStyle(document.body).backgroundColor,
    ink: getComputedStyle(document.body).color,
    colors: [...new Set(drawn.map(part => getComputedStyle(part).stroke))],
    charts: [...document.querySelectorAll("svg.chart")].map(part => part.getBoundingClientRect().height),
    marks: document.querySelectorAll("mark.entity").length,
    text: document.body.innerText,
  }), "*")
})
</script>
"""
# Browsers have no windows as narrow as a phone, but frames.
FRAME = """<!DOCTYPE html>
<meta name="color-scheme" content="light dark">
<script>addEventListener("message", event => document.documentElement.dataset.measured = event.data)</script>
<iframe src="measured.html" style="width: {width}px; height: 900px; border: 0"></iframe>
"""


@pytest.fixture(scope="module")
def folder(tiny_bert, tmp_path_factory):
    """A pipeline with its training log and its texts, in which it makes errors, and the page."""
    folder = tmp_path_factory.mktemp("page")
    trained(tiny_bert).to_disk(folder / "model-best")
    rows = ["step,learn_rate,best,score,loss_ner,loss_textcat,ents_f,cats_macro_f"]
    rows += [f"{step},{1e-4 * step},{int(step == 6)},,{1 / step},{2 / step},," for step in range(1, 6)]
    rows.append("6,6e-4,1,0.8,0.1,0.2,0.8,0.9")
    (folder / "training_log.csv").write_text("\n".join(rows), encoding="utf-8")
    (first, second, *rest) = ANNOTATED
    changed = [(*first[:2], "work"), (second[0], [(0, 3, "CITY")], second[2]), *rest] * 3
    lines = [json.dumps({"text": text, "spans": spans, "label": cat}) for text, spans, cat in changed]
    (folder / "dev.jsonl").write_text("\n".join(lines), encoding="utf-8")
    make_report(folder / "model-best", [folder / "dev.jsonl"], output=folder / "report.html")
    return folder


def run_browser(folder: Path, *arguments: str) -> str:
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *arguments]
    command.insert(1, f"--user-data-dir={folder / 'profile'}")
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout


def measured(folder: Path, *arguments: str, width: int = 1200):
    page = (folder / "report.html").read_text(encoding="utf-8")
    copy = folder / "measured.html"
    copy.write_text(page.replace("</body>", f"{MEASURE}</body>"), encoding="utf-8")
    frame = folder / "frame.html"
    frame.write_text(FRAME.replace("{width}", str(width)), encoding="utf-8")
    dom = run_browser(folder, *arguments, "--window-size=1400,1000", "--dump-dom", frame.as_uri())
    found = re.search(r'data-measured="([^"]*)"', dom)
    assert found is not None, dom[:2000]
    return json.loads(html.unescape(found[1]))


@needs_browser
def test_a_reader_finds_every_part(folder):
    found = measured(folder, LIGHT)
    assert found["width"] == 1200
    text = found["text"]
    for part in (
        "Overview",
        "95 % interval",
        "What stands out",
        "Scores per label",
        "Kinds of errors",
        "wrong type",
        "invented",
        "Confusion",
        "none",
        "Reliability: is it as often right as it is confident?",
        "Precision against recall, as the threshold falls",
        "Length",
        "Words unseen in training",
        "Label frequency in training",
        "Worst errors",
        "predicted",
        "Loss of the training texts",
        "Scores on the development texts",
        "Longer than the encoder’s window",
        "misaligned",
        "Balance: ner",
        "Versions",
        "seed",
        "All scores",
    ):
        assert part in text, part
    # Of each head reliability and threshold; the training's three curves; the lengths.
    assert len(found["charts"]) == 2 * 2 + 3 + 1
    assert min(found["charts"]) > 100
    assert found["marks"] > 3


@needs_browser
def test_light_and_dark_are_two_sets_of_colours_in_the_charts_too(folder):
    light, dark = measured(folder, LIGHT), measured(folder, DARK)

    def brightness(color):
        return sum(map(int, re.findall(r"\d+", color)[:3])) / 3

    assert brightness(light["back"]) > 230
    assert brightness(light["ink"]) < 60
    assert brightness(dark["back"]) < 40
    assert brightness(dark["ink"]) > 200
    assert not set(light["colors"]) & set(dark["colors"]) - {"none"}
    assert "rgb(0, 0, 0)" not in dark["colors"]  # matplotlib's own black would not be seen


@needs_browser
def test_nothing_is_wider_than_a_phone(folder):
    found = measured(folder, width=390)
    assert found["wide"] == []
    assert found["scroll"] == found["width"] == 390


@needs_browser
def test_it_can_be_printed(folder):
    paper = folder / "report.pdf"
    run_browser(folder, DARK, f"--print-to-pdf={paper}", (folder / "report.html").as_uri())
    content = paper.read_bytes()
    assert content.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", content)) > 2


def test_it_needs_neither_network_nor_script(folder):
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page
    assert not re.findall(r"@import|url\((?!#)|<link|<img|<iframe", page)
    assert {link[0] for link in re.findall(r'(?:href|src)="([^"]*)"', page)} == {"#"}


def test_every_link_leads_somewhere_and_every_id_is_one(folder):
    page = (folder / "report.html").read_text(encoding="utf-8")
    ids = re.findall(r'\bid="([^"]*)"', page)
    assert len(ids) == len(set(ids))
    assert {link[1:] for link in re.findall(r'href="([^"]*)"', page)} <= set(ids)
    sections = ["overview", "head-1", "head-2", "training", "data", "settings", "scores"]
    assert re.findall(r'<section id="([^"]*)"', page) == sections
    assert set(re.findall(r'<li><a href="#([^"]*)"', page)) == set(sections)
