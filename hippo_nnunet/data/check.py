"""Check a dataset: list every problem with its file, the finding and the remedy; nothing is changed."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from hippo_nnunet.data.cases import CheckedCase
from hippo_nnunet.data.check_case import CaseReport, check_case
from hippo_nnunet.data.check_grids import check_grids
from hippo_nnunet.data.description import description_findings
from hippo_nnunet.data.finding import Finding, FoundProblem
from hippo_nnunet.data.layout import CHANNEL, IMAGE_ENDINGS, Case, Dataset, read_dataset, visible_files
from hippo_nnunet.data.same_scan import find_same_scan
from hippo_nnunet.data.subjects import TABLE, read_subjects
from hippo_nnunet.progress import tracked

_SAFE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


def check_dataset(folder: Path) -> list[Finding]:
    """Check every file of an MSD folder or a dataset of nnUNet_raw.

    Returns:
        All findings, sorted by path. A folder that is missing, empty or no dataset gives one finding.
    """
    try:
        dataset = read_dataset(folder)
    except FoundProblem as problem:
        return [problem.finding]
    cases = [*dataset.training, *dataset.test]
    reports = {(case.id, case.label is None): check_case(dataset, case) for case in tracked(cases, "checking")}
    findings = [
        *_check_description(dataset),
        *_check_folders(dataset),
        *_check_ids(dataset),
        *_check_channels(dataset),
        *(finding for report in reports.values() for finding in report.findings),
        *_check_duplicates(dataset, reports),
        *_check_unused_labels(dataset, reports.values()),
        *_check_subjects(dataset, reports),
        *check_grids(dataset, *_readable(reports)),
    ]
    return sorted(findings, key=lambda finding: (str(finding.path), finding.problem))


def _readable(reports: Mapping[tuple[str, bool], CaseReport]) -> tuple[list[CheckedCase], list[CheckedCase]]:
    """Return the cases for training and the test cases whose images could be read."""
    found: tuple[list[CheckedCase], list[CheckedCase]] = [], []
    for (_, is_test), report in reports.items():
        if report.scan:
            found[is_test].append(report.scan)
    return found


def _check_description(dataset: Dataset) -> Iterator[Finding]:
    path = dataset.folder / "dataset.json"

    def finding(message: str, remedy: str) -> Finding:
        return Finding(path, None, "dataset-json", message, remedy)

    description = dataset.description
    if dataset.form == "msd":  # what nnU-Net's converter makes of it
        labels = {name: values[0] for name, values in dataset.labels.items()}
        nnunet = {"channel_names": description["modality"], "file_ending": dataset.file_ending, "labels": labels}
        description = {**description, **nnunet}
    yield from description_findings(path, description, dataset.labels)
    declared, found = description.get("numTraining"), len(dataset.training)
    if not found:
        yield Finding(dataset.folder / "imagesTr", None, "no-cases", "no training case", "add images and labels")
    elif type(declared) is not int or declared != found:  # nnU-Net repeats a list so many times
        yield finding(f"numTraining is {declared!r}, but there are {found} training cases", "make the two agree")


def _check_folders(dataset: Dataset) -> Iterator[Finding]:
    for name in ("imagesTr", "labelsTr", "imagesTs"):
        folder = dataset.folder / name
        if not folder.is_dir():
            continue
        for path in sorted(folder.glob("._*")):
            # nnU-Net's MSD converter skips them; in nnUNet_raw they count as images.
            severity = "warning" if dataset.form == "msd" else "error"
            message, remedy = "macOS metadata, no image", "delete it: find FOLDER -name '._*' -delete"
            yield Finding(path, None, "hidden-file", message, remedy, severity)  # type: ignore[arg-type]
        for path in visible_files(folder):
            right_ending = path.name.endswith(dataset.file_ending)
            if not right_ending and path.name.lower().endswith(IMAGE_ENDINGS):
                message = f"nnU-Net looks only for {dataset.file_ending} here"
                yield Finding(path, None, "file-ending", message, f"save it as {dataset.file_ending}")
            elif (
                right_ending
                and dataset.form == "nnunet"
                and name != "labelsTr"
                and not CHANNEL.search(path.name[: -len(dataset.file_ending)])
            ):
                message = "the name has no channel number"
                remedy = f"name it CASE_0000{dataset.file_ending}"
                yield Finding(path, None, "case-id", message, remedy)


def _check_ids(dataset: Dataset) -> Iterator[Finding]:
    seen: dict[str, Case] = {}
    for case in [*dataset.training, *dataset.test]:
        path = case.images[0]
        if not _SAFE_ID.fullmatch(case.id):
            message = f"case id {case.id!r}"
            yield Finding(path, case.id, "case-id", message, "use letters, digits, '_', '-' and '.' only")
        elif dataset.form == "msd" and CHANNEL.search(case.id):
            message = f"case id {case.id!r} ends like a channel number"
            yield Finding(path, case.id, "case-id", message, "give the case a name without _0000")
        other = seen.setdefault(case.id.lower(), case)
        if other is not case:
            message = f"case id {case.id!r} is also that of {other.images[0].relative_to(dataset.folder)}"
            yield Finding(path, case.id, "case-id", message, "give each case a unique id, ignoring letter case")
        if not case.listed:
            message, remedy = "not listed in dataset.json, but nnU-Net uses it", "list it, or remove it"
            yield Finding(path, case.id, "unlisted", message, remedy, "warning")


def _check_channels(dataset: Dataset) -> Iterator[Finding]:
    if dataset.form == "msd" and dataset.channels != 1:
        message = f"{dataset.channels} modalities in 4D images: only 3D images are supported"
        remedy = "convert it with nnUNetv2_convert_MSD_dataset, which splits them"
        yield Finding(dataset.folder / "dataset.json", None, "not-3d", message, remedy)
    if dataset.form == "nnunet":
        expected = [f"_{channel:04d}" for channel in range(dataset.channels)]
        for case in [*dataset.training, *dataset.test]:
            got = [path.name[len(case.id) : -len(dataset.file_ending)] for path in case.images]
            if got != expected:
                message = f"channels {', '.join(got)}, but dataset.json declares {', '.join(expected)}"
                yield Finding(case.images[0], case.id, "channels", message, "add or take out files until they agree")


def _check_duplicates(dataset: Dataset, reports: dict[tuple[str, bool], CaseReport]) -> Iterator[Finding]:
    images: defaultdict[str, list[Case]] = defaultdict(list)
    labels: defaultdict[str, list[Case]] = defaultdict(list)
    for case in [*dataset.training, *dataset.test]:
        report = reports[case.id, case.label is None]
        if report.image_digest:
            images[report.image_digest].append(case)
        if report.label_digest:
            labels[report.label_digest].append(case)
    for first, *others in images.values():
        for other in others:
            message = f"the same voxels as {first.images[0].relative_to(dataset.folder)}"
            remedy = "keep one of the two: otherwise a case is in training and validation at once"
            yield Finding(other.images[0], other.id, "duplicate", message, remedy)
    for first, *others in labels.values():
        for other in others:
            same_image = reports[first.id, False].image_digest == reports[other.id, False].image_digest
            if not same_image and first.label and other.label:
                message = f"the same label as {first.label.relative_to(dataset.folder)} for another image"
                yield Finding(other.label, other.id, "duplicate", message, "look at both cases", "warning")


def _check_unused_labels(dataset: Dataset, reports: Iterable[CaseReport]) -> Iterator[Finding]:
    found = frozenset(value for report in reports for value in report.label_values)
    for name, values in dataset.labels.items():
        if found and name not in ("background", "ignore") and not found & set(values):
            message = f"declares label {name!r}, but no case holds it"
            path = dataset.folder / "dataset.json"
            yield Finding(path, None, "unused-label", message, "correct dataset.json or the labels", "warning")


def _check_subjects(dataset: Dataset, reports: dict[tuple[str, bool], CaseReport]) -> Iterator[Finding]:
    """Check the table of subjects; without one, warn about cases that are crops of one scan."""
    table = dataset.folder / TABLE
    if table.exists():
        try:
            read_subjects(table, [case.id for case in dataset.training], [case.id for case in dataset.test])
        except FoundProblem as problem:
            yield problem.finding
        return
    different = {report.image_digest: (case, report.intensities) for (case, _), report in reports.items()}
    if same_scan := find_same_scan(dict(different.values())):
        remedy = f"keep them in one fold, as 'run' and 'plan' do; to correct this, write {TABLE} beside dataset.json"
        yield Finding(dataset.folder / "dataset.json", None, "same-scan", same_scan.describe(), remedy, "warning")
