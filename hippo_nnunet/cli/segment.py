"""`segment`: both hippocampi of any T1 head scan, and crops."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hippo_nnunet.cli.options import Coverage, Overwrite
from hippo_nnunet.cli.output import echo
from hippo_nnunet.errors import HippoError

if TYPE_CHECKING:
    from hippo_nnunet.segment.network import BoxModel
    from hippo_nnunet.segment.volumes import Judge

log = logging.getLogger(__name__)

_KINDS = ("auto", "head", "crop")


def segment(
    scans: Annotated[
        list[Path],
        typer.Argument(
            help="T1 scans (.nii.gz, .nii), folders of scans, or BIDS datasets.", metavar="SCANS...", show_default=False
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for masks, volumes.csv and the QC page.")],
    kind: Annotated[
        str,
        typer.Option("--kind", help="head (for both sides), crop (around one hippocampus), or auto: by its size."),
    ] = "auto",
    roi: Annotated[
        list[Path] | None,
        typer.Option(
            "--roi",
            help="For one head, instead of the registration: an aseg or SynthSeg segmentation, or a mask of both "
            "hippocampi; twice for a mask of each.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="An .onnx file instead of the packaged model: no intervals.")
    ] = None,
    assume_ras: Annotated[
        bool,
        typer.Option("--assume-ras", help="Take scans without orientation as stored right, anterior, superior."),
    ] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write probability maps of heads (probseg).")
    ] = False,
    intracranial: Annotated[
        Path | None,
        typer.Option("--intracranial", help="CSV file with the columns scan and intracranial_mm3, for volumes.csv."),
    ] = None,
    coverage: Coverage = 0.9,
    overwrite: Overwrite = False,
    qc: Annotated[bool, typer.Option("--qc/--no-qc", help="Write OUTPUT/qc/index.html to check every scan by eye.")] = (
        True
    ),
) -> None:
    """Segment the hippocampi of T1 head scans or crops, in their own grid. Prints the label maps."""
    if kind not in _KINDS:
        raise typer.BadParameter(f"give one of {', '.join(_KINDS)}", param_hint="--kind")

    from hippo_nnunet.inference.scans import FailedScans
    from hippo_nnunet.segment.inputs import find_scans
    from hippo_nnunet.segment.outputs import check_output, save_bids_description
    from hippo_nnunet.segment.run import SegmentOptions, segment_scans
    from hippo_nnunet.segment.tables import check_table, read_intracranial, write_table

    found = find_scans(scans)
    if roi and len(found) > 1:
        raise typer.BadParameter(f"it is for one scan, and {len(found)} are given", param_hint="--roi")
    volumes = read_intracranial(intracranial) if intracranial else {}
    if volumes and not volumes.keys() & {one.name for one in found}:
        raise typer.BadParameter(
            f"it has {next(iter(volumes))} and so on, but the scans are {found[0].name} and so on",
            param_hint="--intracranial",
        )
    if without := [one.name for one in found if volumes and one.name not in volumes]:
        log.warning("%d scans, first %s, have no intracranial volume in %s", len(without), without[0], intracranial)
    check_output(output, found)
    check_table(output)
    opened, judge = _model(model, coverage)
    page = None
    if qc:
        from hippo_nnunet.pages.qc.segmented import SegmentedPage

        page = SegmentedPage(output / "qc", opened.model.path.name)
    if any(one.folder != Path() for one in found):
        save_bids_description(output)
    options = SegmentOptions(
        kind, tuple(roi or ()), assume_ras, probabilities, volumes, overwrite, page.add if page else None
    )
    failed = None
    try:
        written = segment_scans(found, output, opened, judge, options)
    except FailedScans as error:
        written, failed = error.written, error
    except BaseException:  # also an interruption: what is complete is in the table and on the page
        with suppress(HippoError, OSError):
            write_table(output)
            if page:
                page.write()
        raise
    for path in (*written, write_table(output)):
        echo(path)
    if page:
        if failed:
            page.fail(failed.reasons, found)
        if missing := page.missing(found):
            log.warning(
                "%d scans, first %s, are not on the page: give --overwrite to make it", len(missing), missing[0]
            )
        echo(page.write())
    if failed:
        raise failed


def _model(path: Path | None, coverage: float) -> tuple[BoxModel, Judge]:
    """Open the model, and what its volumes are judged by."""
    from hippo_nnunet.evaluation.labels import named_labels
    from hippo_nnunet.evaluation.volume_calibration import uncalibrated, with_total
    from hippo_nnunet.segment.network import BoxModel
    from hippo_nnunet.segment.volumes import Judge

    if path is None:
        from hippo_nnunet.models.packaged import open_packaged

        packaged = open_packaged()
        log.info("packaged model %s, %s: see 'hippo-nnunet model info'", packaged.title, packaged.licence)
        return BoxModel.open(packaged.path), Judge(packaged.calibration(coverage), packaged.known_images())
    opened = BoxModel.open(path)
    log.warning("volumes without intervals, as %s brings no calibration", path.name)
    return opened, Judge(uncalibrated(with_total(named_labels(opened.model.dataset_json)[0])))
