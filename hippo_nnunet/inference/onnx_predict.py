"""Images in, segmentations out, with models as ONNX files: imports neither torch nor nnU-Net."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hippo_nnunet.data.cases import CheckedCase, InputCase, find_cases
from hippo_nnunet.data.description import Labels
from hippo_nnunet.errors import ConfigError, DataError
from hippo_nnunet.inference.members import Member, check_repeated, check_together
from hippo_nnunet.inference.onnx_network import OnnxNetwork
from hippo_nnunet.inference.openvino_use import require_openvino
from hippo_nnunet.inference.overlap import MOST_AHEAD, in_background
from hippo_nnunet.inference.prediction_files import check_output, save_probabilities, segmentation_file, start_output
from hippo_nnunet.inference.preprocessing import Floats, Preprocessing
from hippo_nnunet.inference.scans import FailedScans, check_scans, check_size
from hippo_nnunet.inference.suspicions import Suspicions
from hippo_nnunet.memory import free_memory
from hippo_nnunet.models.onnx_file import OnnxModel, open_onnx
from hippo_nnunet.progress import tracked

if TYPE_CHECKING:
    from hippo_nnunet.evaluation.known_images import KnownImages
    from hippo_nnunet.evaluation.segmentation_shape import Segmentation

ONNX_BACKENDS = ("auto", "onnxruntime", "openvino")

_Prepared = tuple[Floats, dict[str, Any]]
"""A preprocessed image, and nnU-Net's properties of it."""
_Labels = npt.NDArray[np.unsignedinteger]
_Predicted = tuple[Floats, list[_Labels]]
"""The models' mean probabilities (head, z, y, x), and the labels (z, y, x) of each model by itself."""


@dataclass(frozen=True)
class OnnxOptions:
    """How to predict; see `PredictOptions`.

    Attributes:
        overwrite: Replace existing segmentations of this model.
        save_probabilities: Also write `<case>.npz` and nnU-Net's `<case>.pkl`.
        use_mirroring: Average over mirrored images.
        observe: Called with each case after it is written, in a thread, one case at a time.
        other_outputs: Files that the caller writes: they must not be any of the files written here.
        known: What the first model knows of its images; others are refused or warned of. None: every image is taken.
        check_cases: Called with the cases before anything is predicted; what it raises ends the prediction.
        backend: One of `ONNX_BACKENDS`: see `OnnxNetwork.choose`.
    """

    overwrite: bool = False
    save_probabilities: bool = False
    use_mirroring: bool = True
    observe: Callable[[Segmentation], object] | None = None
    other_outputs: Sequence[Path] = ()
    known: KnownImages | None = None
    check_cases: Callable[[Sequence[InputCase]], None] | None = None
    backend: str = "auto"


def predict_onnx(
    inputs: Path | Sequence[Path], output: Path, models: Sequence[Path], options: OnnxOptions | None = None
) -> list[Path]:
    """Segment images as `hippo_nnunet.inference.predict.predict` does with the models that the files are made from.

    Args:
        inputs: Folders or files: see `find_cases`.
        output: Folder for `<case>` + the dataset's file ending, dataset.json and plans.json.
        models: Files of `hippo-nnunet model export --onnx`; the probabilities of several are averaged.
        options: How to predict.

    Returns:
        The segmentations written, sorted by case.

    Raises:
        ConfigError: No model, a repeated one, models that do not belong together, or an unknown backend.
        DataError: An invalid model, an existing target, or a folder that cannot be written to.
        FailedScans: Some images are invalid or cannot be predicted; all others are.
        DependencyError: onnxruntime is not installed, or OpenVINO is requested and is not.
    """
    options = options or OnnxOptions()
    _check_backend(options.backend)
    check_repeated(models)
    opened = [open_onnx(path) for path in models]
    members = [Member(m.path, tuple(m.description["folds"]), "", m.dataset_json, m.plans) for m in opened]
    check_together(members)
    first, labels = members[0], opened[0].labels
    cases = find_cases(inputs, first.channels)
    check_output(cases, output, first, options.overwrite, options.save_probabilities, options.other_outputs)
    if options.check_cases is not None:
        options.check_cases(cases)
    attempts, checked = check_scans(cases, first)
    networks = [OnnxNetwork(model, options.use_mirroring) for model in opened]
    steps = [Preprocessing.of(model.plans, model.configuration) for model in opened]
    suspicions = Suspicions(options.known, checked)
    sizes = {one.case: attempts.run(one.case, partial(_accept, one, opened, suspicions)) for one in checked}
    voxels = {case: size for case, size in sizes.items() if size is not None}
    if not voxels:
        raise FailedScans(attempts)
    for network in networks:
        network.choose(options.backend, sum(voxels.values()))
    start_output(output, first)

    writing = _Writing(first, steps[0], labels, output, options, suspicions)

    def prepare(case: InputCase) -> tuple[InputCase, list[_Prepared] | None]:
        return case, attempts.run(case, partial(_prepare, case, steps, suspicions))

    def finish(predicted: tuple[InputCase, list[_Prepared], list[Floats]]) -> Path | None:
        case, prepared, logits = predicted
        made = attempts.run(case, partial(_combined, prepared, logits, steps, labels))
        if made is None:
            return None
        return writing.write(case, made, prepared[0][1])

    ahead = max(1, min(MOST_AHEAD, free_memory() // (64 * max(voxels.values()) * (first.channels + labels.heads))))
    predicted = (
        (case, prepared, logits)
        for case, prepared in in_background(prepare, voxels, ahead)
        if prepared and (logits := attempts.run(case, partial(_logits, prepared, networks)))
    )
    finished = in_background(finish, predicted, ahead)
    written = [path for path in tracked(finished, "predicting", len(voxels)) if path]
    if attempts.reasons:
        raise FailedScans(attempts, written)
    return written


def _check_backend(backend: str) -> None:
    if backend not in ONNX_BACKENDS:
        raise ConfigError(
            f"backend '{backend}' is none for an ONNX file or the packaged model: choose one of "
            f"{', '.join(ONNX_BACKENDS)}, or name a model folder or a .hippo file"
        )
    if backend == "openvino":
        require_openvino("onnxruntime")


def _accept(checked: CheckedCase, models: Sequence[OnnxModel], suspicions: Suspicions) -> int:
    """Refuse unknown scans, and return the voxels of one on the finest grid of the models: see `check_size`."""
    suspicions.refuse(checked.case)
    return max(check_size(checked, m.plans, m.configuration["spacing"], m.labels.heads) for m in models)


def _prepare(case: InputCase, steps: Sequence[Preprocessing], suspicions: Suspicions) -> list[_Prepared]:
    """Read a case, preprocess it for each model, and look at it; equal preprocessing is shared."""
    image, properties = steps[0].read(case)
    done: list[_Prepared] = []
    for number, step in enumerate(steps):
        if (same := steps.index(step)) < number:
            done.append(done[same])
            continue
        of_model = dict(properties)
        try:
            done.append((step.apply(image.copy(), of_model), of_model))
        except DataError as error:
            raise DataError(f"{case.files[0]}: {error}") from error
    suspicions.look(case, done[0][0][0].transpose(steps[0].backward))
    return done


def _logits(prepared: Sequence[_Prepared], networks: Sequence[OnnxNetwork]) -> list[Floats]:
    return [network.predict(image) for (image, _), network in zip(prepared, networks, strict=True)]


def _combined(
    prepared: Sequence[_Prepared], logits: Sequence[Floats], steps: Sequence[Preprocessing], labels: Labels
) -> _Predicted:
    """Average the models' probabilities on the image's grid."""
    total, *others = (
        step.probabilities(of_model, properties, labels.regions is not None)
        for (_, properties), of_model, step in zip(prepared, logits, steps, strict=True)
    )
    of_models = [labels_of(probabilities, labels) for probabilities in (total, *others)]
    for other in others:
        total += other
    total /= len(steps)
    return total, of_models


def labels_of(probabilities: Floats, labels: Labels) -> _Labels:
    """Return the labels (z, y, x) of probabilities (head, z, y, x): the likeliest, or regions one over the other."""
    if labels.regions is None:
        return probabilities.argmax(axis=0).astype(np.uint16)
    written = np.zeros(probabilities.shape[1:], np.uint16)
    for of_region, label in zip(probabilities, labels.order, strict=True):
        written[of_region > 0.5] = label
    return written


@dataclass(frozen=True)
class _Writing:
    """Writes the files of cases."""

    member: Member
    step: Preprocessing
    labels: Labels
    output: Path
    options: OnnxOptions
    suspicions: Suspicions

    def write(self, case: InputCase, predicted: _Predicted, properties: dict[str, Any]) -> Path:
        """Write the files of a case, the segmentation last."""
        probabilities, of_models = predicted
        segmentation = of_models[0] if len(of_models) == 1 else labels_of(probabilities, self.labels)
        self.suspicions.look_at_labels(case, segmentation, self.labels)
        if self.options.save_probabilities:
            save_probabilities(self.output, case.case, probabilities, properties)
        target = self.output / f"{case.case}{self.member.dataset_json['file_ending']}"
        with segmentation_file(target) as path:
            self.step.write(segmentation, path, properties)
        if self.options.observe is not None:
            from hippo_nnunet.evaluation.segmentation_shape import Segmentation

            regions = self.labels.regions is not None
            spacing, flags = properties["spacing"], self.suspicions.flags(case)
            done = Segmentation(case.case, segmentation, spacing, probabilities, None, of_models, regions, flags)
            self.options.observe(replace(done, images=case.files, written=target))
        return target
