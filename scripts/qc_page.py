#!/usr/bin/env python3
"""Make a QC page of many scans from a labelled Decathlon task, and measure it: `python scripts/qc_page.py --help`.

Labels stand in for predictions. With --head every scan has two sides, the second mirrored, and a registration check.
"""

from __future__ import annotations

import argparse
import shutil
import time
from itertools import cycle, islice
from pathlib import Path

import nibabel as nib
import numpy as np

from hippo_nnunet.data.layout import read_dataset
from hippo_nnunet.pages.qc.page import write_index
from hippo_nnunet.pages.qc.records import Registration, ScanRecord, Side, VolumeRow
from hippo_nnunet.pages.qc.scan_files import write_scan


def main() -> None:
    """Write the page and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", type=Path, help="folder such as Task04_Hippocampus")
    parser.add_argument("output", type=Path, help="folder of the page")
    parser.add_argument("--scans", type=int, default=500)
    parser.add_argument("--head", type=Path, help="image of a head for the registration check, such as MNI152")
    parser.add_argument("--screenshot", type=Path, help="write what Chromium shows as PNG")
    options = parser.parse_args()
    registration = read_head(options.head) if options.head else None
    cases = read_dataset(options.task).training
    seconds = []
    for number, case in enumerate(islice(cycle(cases), options.scans)):
        record = record_of(f"{number:03d} {case.id}", case.images[0], case.label, registration)
        start = time.process_time()
        write_scan(options.output, record)
        seconds.append(time.process_time() - start)
    start = time.process_time()
    page = write_index(options.output)
    print(f"CPU time of a scan: median {np.median(seconds):.3f} s, first {seconds[0]:.3f} s")
    print(f"CPU time of the page: {time.process_time() - start:.1f} s; its size: {page.stat().st_size / 1e6:.1f} MB")
    files = sum(file.stat().st_size for file in (options.output / "scans").iterdir())
    print(f"the {options.scans} scans' files: {files / 1e6:.0f} MB")
    print(f"first pictures in Chromium after {opened(page, options.screenshot):.1f} s")


def read_head(path: Path) -> Registration:
    """Every second voxel of a head, with the outline of what is brighter than its mean."""
    image = nib.as_closest_canonical(nib.load(path))
    head = np.asarray(image.dataobj)[::2, ::2, ::2]
    spacing = tuple(2 * float(size) for size in image.header.get_zooms())
    return Registration(head, head > head.mean(), spacing)


def record_of(name: str, image: Path, label: Path, registration: Registration | None) -> ScanRecord:
    """A scan with the reference as prediction."""
    opened = nib.load(image)
    voxels, labels = np.asarray(opened.dataobj), np.asarray(nib.load(label).dataobj).astype(np.uint8)
    spacing = tuple(map(float, opened.header.get_zooms()))
    sides = [Side(voxels, labels, spacing, "left" if registration else "")]
    if registration:
        sides.append(Side(voxels[::-1], labels[::-1], spacing, "right"))
    names = ("anterior", "posterior")
    rows = []
    for side in sides:
        for position, part in enumerate(names):
            volume = float((labels == position + 1).sum() * np.prod(spacing))
            rows.append(VolumeRow(f"{side.title} {part}".strip(), volume, 0.9 * volume, 1.1 * volume, position))
    doubt = float(np.random.default_rng(len(name) + int(labels.sum())).uniform(0, 0.2))
    flags = ("anterior: in more than one piece",) if doubt > 0.17 else ()
    return ScanRecord(name, names, sides, rows, flags, doubt, registration, 0.9, {"image": image.name})


def opened(page: Path, screenshot: Path | None = None) -> float:
    """Seconds until Chromium shows the first pictures, of which a screenshot can be taken."""
    from playwright.sync_api import sync_playwright

    found = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))))
    with sync_playwright() as manager:
        browser = manager.chromium.launch(executable_path=found, args=["--no-sandbox"])
        window = browser.new_page(viewport={"width": 1280, "height": 900 if screenshot is None else 640})
        start = time.perf_counter()
        window.goto(page.resolve().as_uri())
        window.wait_for_selector(".stage svg image")
        seconds = time.perf_counter() - start
        if screenshot:
            window.keyboard.press("p")
            window.screenshot(path=screenshot)
        browser.close()
    return seconds


if __name__ == "__main__":
    main()
