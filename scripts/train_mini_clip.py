"""Train the image tower of the bundled CLIP `mini` on phantom slices against its frozen text tower; write the model.

    python scripts/train_mini_clip.py --overwrite

The text tower is that of the bundled model, or with `--text FILE` a new one of `train_mini_text.py --out FILE`. About
nine minutes on one core. Seeded: the same machine, versions and number of threads give the same weights. With
HIPPO_TASK04 the card also has figures on real slices, which are never trained on.

Source: locked-image text tuning, Zhai et al. 2021 (arXiv:2111.07991), the other way round: the text is locked.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from mini_texts import AMOUNTS, DESCRIPTIONS, OFF_TOPIC, PARAPHRASES, phrases
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES
from safetensors.torch import load_file, save

from hippo_nnunet.clip.encoder import CLIPEncoder
from hippo_nnunet.clip.models import MINI, MINI_FOLDER, MINI_RECORD
from hippo_nnunet.clip.orientation import slice_view
from hippo_nnunet.clip.preprocessing import Preprocessing
from hippo_nnunet.clip.prompts import class_prompts
from hippo_nnunet.data.nifti import read_volume
from hippo_nnunet.data.phantom import make_case
from hippo_nnunet.files import atomic_path, read_object, write_json, write_text

BATCH = 36
PEAK_RATE = 1e-3
SCALE, CLASS_SCALE = 20.0, 100.0  # inverse temperatures; the classes' texts have cosines up to 0.96
WEIGHTS = (1.0, 1.0, 2.0, 2.0)  # of the losses: description, class, patch, distance to the own texts
WARM_UP = 0.1  # of the steps
OTHER_TOPICS = 32  # texts about other things that a slice is told from in each step
NOTHING = 2e-4  # share of a slice below which it shows nothing of the hippocampus: less than a voxel
CLASSES = ("background", "anterior", "posterior")
TASK04 = {"labels": {name: value for value, name in enumerate(CLASSES)}, "channel_names": {"0": "MRI"}}


@dataclass(frozen=True)
class Slices:
    """Slices as the encoder gets them.

    Args:
        pixels: float32 (n, size, size) in [0, 1]: windowed, padded to a square, resized.
        parts: float32 (n, 2, size, size): the share of each pixel that is anterior and posterior hippocampus.
    """

    pixels: torch.Tensor
    parts: torch.Tensor

    def __len__(self) -> int:
        """Number of slices."""
        return len(self.pixels)

    @property
    def shown(self) -> torch.Tensor:
        """0 nothing, 1 the anterior part or more of it than of the posterior one, 2 the other way round; shape (n,)."""
        anterior, posterior = self.parts.mean(dim=(2, 3)).unbind(dim=1)
        return torch.where(anterior + posterior < NOTHING, 0, torch.where(anterior >= posterior, 1, 2))

    @property
    def descriptions(self) -> torch.Tensor:
        """Index into `DESCRIPTIONS` for each slice."""
        anterior, posterior = self.parts.mean(dim=(2, 3)).unbind(dim=1)
        share = anterior + posterior
        part = 3 - torch.bucketize(anterior / share.clamp(min=NOTHING), torch.tensor([0.1, 0.5, 0.9]))
        amount = torch.bucketize(share, torch.tensor([limit for limit, _ in AMOUNTS[:-1]]))
        return torch.where(share < NOTHING, 0, 1 + len(AMOUNTS) * part + amount)

    def __getitem__(self, index: torch.Tensor) -> Slices:
        """Some of them."""
        return Slices(self.pixels[index], self.parts[index])


def slices_of(image: np.ndarray, label: np.ndarray, preprocessing: Preprocessing, directions: str = "SAR") -> Slices:
    """Return the axial slices of a case: z-scores over the case, as nnU-Net's, shown as every encoder gets them.

    Args:
        image: Shape (z, y, x).
        label: Same shape; 1 anterior, 2 posterior.
        preprocessing: Of the encoder.
        directions: In which each axis grows, in letters of nibabel's axis codes.
    """
    image = image.astype(np.float32)
    image = (image - image.mean()) / image.std()
    low, high = preprocessing.window
    plain = replace(preprocessing, mean=(0.0,) * 3, std=(1.0,) * 3)
    view = slice_view(directions, 0)
    layers = [image, *(low + (high - low) * (label == value) for value in (1, 2))]
    pixels, *parts = (plain(view.show(torch.from_numpy(layer)[:, None]))[:, 0] for layer in layers)
    return Slices(pixels, torch.stack(parts, dim=1))


def joined(parts: Sequence[Slices]) -> Slices:
    """Concatenate slices."""
    return Slices(torch.cat([part.pixels for part in parts]), torch.cat([part.parts for part in parts]))


def phantoms(seed: int, split: int, count: int, preprocessing: Preprocessing) -> Slices:
    """Return all slices of some phantoms."""
    cases = (make_case(np.random.default_rng((seed, split, number))) for number in range(count))
    return joined([slices_of(case.image.T, case.label.T, preprocessing) for case in cases])


def real_slices(task: Path, preprocessing: Preprocessing) -> Slices:
    """Return all slices of the labelled cases of Task04."""
    labels = sorted((task / "labelsTr").glob("[!.]*.nii.gz"))
    pairs = ((read_volume(task / "imagesTr" / label.name), read_volume(label)) for label in labels)
    return joined(
        [slices_of(image.array, label.array, preprocessing, image.axis_codes[::-1]) for image, label in pairs]
    )


def augment(slices: Slices, generator: torch.Generator) -> Slices:
    """Mirror left and right, crop, stretch, rotate; change gamma, contrast, brightness, sharpness and noise."""
    count = len(slices)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand((count, *(shape or (1, 1, 1))), generator=generator)

    angle, zoom = uniform(-0.2, 0.2).flatten(), uniform(0.75, 1.05, 2)
    mirror = torch.where(uniform(-1, 1).flatten() < 0, -1.0, 1.0)
    rotation = torch.stack([angle.cos() * mirror, -angle.sin(), angle.sin() * mirror, angle.cos()], dim=1).view(
        -1, 2, 2
    )
    shift = uniform(-1, 1, 2) * (1 - zoom).clamp(min=0.05)
    theta = torch.cat([rotation * zoom[:, None], shift[..., None]], dim=2)
    layers = torch.cat([slices.pixels[:, None], slices.parts], dim=1)
    grid = F.affine_grid(theta, list(layers.shape), align_corners=False)
    layers = F.grid_sample(layers, grid, align_corners=False)
    pixels = layers[:, :1]
    pixels = torch.where(uniform(0, 1) < 0.3, F.avg_pool2d(pixels, 3, 1, 1, count_include_pad=False), pixels)
    pixels = pixels.clamp(1e-3, 1) ** uniform(-0.35, 0.35).exp()
    line = torch.linspace(-1, 1, pixels.shape[-1])
    gradient = uniform(-0.1, 0.1) * line + uniform(-0.1, 0.1) * line[:, None]
    noise = uniform(0, 0.05) * torch.randn(pixels.shape, generator=generator)
    changed = (pixels - 0.5) * uniform(0.75, 1.25) + 0.5 + uniform(-0.08, 0.08) + gradient + noise
    return Slices(torch.where(layers[:, :1] > 0, changed, 0.0).clamp(0, 1)[:, 0], layers[:, 1:])


def prepare(pixels: torch.Tensor, preprocessing: Preprocessing) -> torch.Tensor:
    """Normalise pixels in [0, 1] as `Preprocessing` does; shape (n, 3, size, size)."""
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
    return (pixels[:, None] - mean) / std


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine to zero."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return PEAK_RATE * (step + 1) / warm
    return PEAK_RATE * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


@dataclass(frozen=True)
class Texts:
    """Frozen unit embeddings of texts, one tensor (texts, embed_dim) for each class, description and other topic."""

    classes: list[torch.Tensor]
    descriptions: list[torch.Tensor]
    other: torch.Tensor

    @classmethod
    def of(cls, encoder: CLIPEncoder) -> Texts:
        """Embed the texts by the text tower."""
        names = [template(name) for name in IMAGENET_CLASSNAMES for template in OPENAI_IMAGENET_TEMPLATES[::40]]
        return cls(
            [encoder.encode_text(prompts) for prompts in class_prompts(TASK04)],
            [encoder.encode_text(phrases(part, amount)) for part, amount in DESCRIPTIONS],
            encoder.encode_text(names),
        )

    @staticmethod
    def one_each(groups: Sequence[torch.Tensor], generator: torch.Generator) -> torch.Tensor:
        """Draw a text of each group; shape (groups, embed_dim)."""
        return torch.stack([group[torch.randint(len(group), (), generator=generator)] for group in groups])


def image_and_tokens(visual: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return unit embeddings of images (n, embed_dim) and, as `patch_tokens`, of their patches (n, patches, embed_dim).

    Both from one pass through all blocks but the last.
    """
    *earlier, last = visual.transformer.resblocks
    found = visual.forward_intermediates(
        images,
        indices=[len(earlier) - 1],
        stop_early=True,
        intermediates_only=True,
        output_fmt="NLC",
        output_extra_tokens=True,
    )
    x = torch.cat([found["image_intermediates_prefix"][0], found["image_intermediates"][0]], dim=1)
    only_itself = torch.full((x.shape[1], x.shape[1]), -math.inf).fill_diagonal_(0)
    whole = visual.ln_post(last(x))[:, 0] @ visual.proj
    tokens = visual.ln_post(last(x, attn_mask=only_itself))[:, 1:] @ visual.proj
    return F.normalize(whole, dim=-1), F.normalize(tokens, dim=-1)


def train(
    model: open_clip.CLIP, slices: Slices, texts: Texts, preprocessing: Preprocessing, steps: int, seed: int
) -> list[float]:
    """Train the image tower: a slice is to choose its description and its class among texts, a patch its class.

    Returns:
        Means over the last tenth of the steps of the losses: description, class, patch, distance to the own texts.
    """
    generator = torch.Generator().manual_seed(seed)
    by_class = [torch.nonzero(slices.shown == shown).flatten() for shown in range(3)]
    visual = model.visual
    patches = visual.grid_size[0]
    named = list(visual.named_parameters())
    matrices = [value for name, value in named if value.ndim > 1 and "embedding" not in name]
    others = [value for name, value in named if value.ndim <= 1 or "embedding" in name]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], betas=(0.9, 0.98)
    )
    # As in use: of single prompts, those of anterior and posterior parts lie too close to each other.
    classes = F.normalize(torch.stack([of_class.mean(dim=0) for of_class in texts.classes]), dim=1)
    losses = []
    for step in range(steps):
        # As many slices of each class: about half of a phantom's show both parts, few show none.
        drawn = [of_class[torch.randint(len(of_class), (BATCH // 3,), generator=generator)] for of_class in by_class]
        batch = augment(slices[torch.cat(drawn)], generator)
        topics = texts.other[torch.randint(len(texts.other), (OTHER_TOPICS,), generator=generator)]
        described = torch.cat([Texts.one_each(texts.descriptions, generator), topics])
        share = F.adaptive_avg_pool2d(batch.parts, patches).flatten(2).transpose(1, 2)
        share = torch.cat([1 - share.sum(dim=2, keepdim=True), share], dim=2).clamp(0, 1)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        whole, tokens = image_and_tokens(visual, prepare(batch.pixels, preprocessing))
        own = described[batch.descriptions]
        of_patches = share @ classes
        parts = torch.stack(
            [
                F.cross_entropy(SCALE * whole @ described.T, batch.descriptions),
                F.cross_entropy(CLASS_SCALE * whole @ classes.T, batch.shown),
                F.cross_entropy((CLASS_SCALE * tokens @ classes.T).flatten(0, 1), share.flatten(0, 1)),
                # near the texts, not only nearer to one than to the others: so other topics are far
                2 - F.cosine_similarity(whole, own).mean() - F.cosine_similarity(tokens, of_patches, dim=2).mean(),
            ]
        )
        optimizer.zero_grad()
        (parts * torch.tensor(WEIGHTS)).sum().backward()
        torch.nn.utils.clip_grad_norm_(matrices + others, 1.0)
        optimizer.step()
        losses.append(parts.detach())
        if (step + 1) % max(1, steps // 20) == 0:
            mean = torch.stack(losses[-max(1, steps // 20) :]).mean(dim=0).tolist()
            told = ", ".join(f"{loss:.3f}" for loss in mean)
            print(f"step {step + 1}/{steps}: {told}; {time.process_time():.0f} s of CPU", flush=True)
    return torch.stack(losses[-max(1, steps // 10) :]).mean(dim=0).tolist()


def recalls(found: torch.Tensor, truth: torch.Tensor) -> list[float]:
    """Return the share of each class that is found."""
    return [float((found[truth == value] == value).float().mean()) for value in range(3)]


@torch.no_grad()
def judge_images(
    model: open_clip.CLIP, slices: Slices, texts: Mapping[str, torch.Tensor], preprocessing: Preprocessing
) -> dict[str, Any]:
    """Classify slices and their patches by texts alone.

    Args:
        texts: Embeddings of the classes' prompts `prompts`, of held-out `paraphrases`, and of `off_topic` texts.
    """
    batches = [image_and_tokens(model.visual, prepare(part, preprocessing)) for part in slices.pixels.split(256)]
    whole, tokens = (torch.cat(parts) for parts in zip(*batches, strict=True))
    shown, size = slices.shown, model.visual.grid_size[0]
    share = F.adaptive_avg_pool2d(slices.parts, size).flatten(2).transpose(1, 2)
    patch_truth = torch.cat([1 - share.sum(dim=2, keepdim=True), share], dim=2).argmax(dim=2)
    found = {name: recalls((whole @ texts[name].T).argmax(dim=1), shown) for name in ("prompts", "paraphrases")}
    nearest = (whole @ torch.cat([texts["prompts"], texts["off_topic"]]).T).argmax(dim=1)
    patches = recalls((tokens @ texts["prompts"].T).argmax(dim=2).flatten(), patch_truth.flatten())
    return {
        "slices": len(slices),
        "recall": float(np.mean(found["prompts"])),
        **{f"recall_{name}": recall for name, recall in zip(CLASSES, found["prompts"], strict=True)},
        "recall_by_paraphrases": float(np.mean(found["paraphrases"])),
        "off_topic": float((nearest >= 3).float().mean()),
        "patch_recall": float(np.mean(patches)),
        **{f"patch_recall_{name}": recall for name, recall in zip(CLASSES, patches, strict=True)},
    }


def judge_texts(encoder: CLIPEncoder, texts: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Return how texts lie to each other: paraphrases that are nearest to their own class, cosines of other topics."""
    cosines = [encoder.encode_text(PARAPHRASES[name]) @ texts["prompts"].T for name in CLASSES]
    hits = [float((cosine.argmax(dim=1) == value).float().mean()) for value, cosine in enumerate(cosines)]
    return {
        "paraphrases": sum(map(len, PARAPHRASES.values())),
        "paraphrases_nearest_own_class": float(np.mean(hits)),
        "cosine_of_paraphrases": float(
            torch.stack([cosine[:, value].mean() for value, cosine in enumerate(cosines)]).mean()
        ),
        "cosines_of_dog": (texts["off_topic"][0] @ texts["prompts"].T).tolist(),
        "largest_cosine_off_topic": float((texts["off_topic"] @ texts["prompts"].T).max()),
        "cosines_of_classes": (texts["prompts"] @ texts["prompts"].T)[torch.triu_indices(3, 3, 1).unbind()].tolist(),
    }


def of_each_class(encoder: CLIPEncoder, texts: Sequence[Sequence[str]]) -> torch.Tensor:
    """Return one unit embedding for each class: the mean of those of its texts."""
    return F.normalize(torch.stack([encoder.encode_text(of_class).mean(dim=0) for of_class in texts]), dim=1)


CARD = """# `mini`: a small CLIP for the demo and the tests

**Not for research claims.** Its image tower has seen synthetic phantoms only. It is here so that the CLIP-guided
networks can be shown and tested without a network connection; take `ViT-B-32`, BiomedCLIP or another pretrained CLIP
for results.

- **Text tower**: trained to embed texts as `all-MiniLM-L6-v2` does (sentence-transformers, Apache 2.0), a model of
  sentences, so that the texts' geometry is that of language. The teacher itself would add 91 MB and two packages; this
  is a transformer of width 64 with 2 layers and open_clip's own tokenizer, which embeds any text of up to 48 tokens
  without a network connection. It was trained with {texts} texts and {words} words: definitions and body parts of
  WordNet, open_clip's ImageNet classes in CLIP's templates, the words of CLIP's vocabulary, our prompts and captions
  (`scripts/train_mini_text.py`).
- **Image tower**: vision transformer on 64x64 pixels in patches of 8, width 96, 4 layers, trained against frozen text
  embeddings (LiT, arXiv:2111.07991, with the towers exchanged) on slices of phantoms (`hippo_nnunet/data/phantom.py`)
  in the radiological convention. Each slice chooses its description and its class among texts, and each patch the class
  of its pixels, so that patch tokens have a meaning of their own (`scripts/train_mini_clip.py`).
- **Training**:
{stages}
  The script makes it again with the same text tower, machine, versions and threads ({threads}); a stage after others,
  from their weights (`--start`). It took {cpu_seconds} s of CPU time, the text tower {text_cpu_seconds} s.
- **Size**: embeddings of 64 numbers, {parameters:,} parameters, {size_mb:.1f} MB: the token embedding in float8, the
  rest in float16. See `open_clip_config.json`.
- **Licence**: that of hippo_nnunet. No image or text of others is included.

## Texts

None of the paraphrases, the texts on other topics and the {held_out_definitions} definitions was trained with.

| what | result |
|---|---|
| correlation with the teacher's cosines: definitions | {agreement_definitions:.2f} |
| {paraphrases} paraphrases of the classes | {agreement_paraphrases:.2f} |
| paraphrases and {off_topics} texts on other topics | {agreement_paraphrases_and_off_topic:.2f} |
| paraphrases whose nearest class is their own, mean over classes (chance 33 %) | {paraphrases_nearest_own_class:.0%} |
| the same, of the teacher | {teacher_paraphrases_nearest_own_class:.0%} |
| mean cosine of a paraphrase with its class | {cosine_of_paraphrases:.2f} |
| cosine of `a photo of a dog` with background, anterior, posterior | {dog} |
| largest cosine of a text on another topic with a class | {largest_cosine_off_topic:.2f} |
| cosines of background and anterior, background and posterior, anterior and posterior | {pairs} |

## Images

Slices and patches of phantoms that were not trained on, and of the 220 labelled cases of Task04, which it has never
seen. A slice shows nothing of the hippocampus, mostly its anterior or mostly its posterior part; the answer is the
class whose text is nearest. Recall is the mean over the three classes; chance is 33 %.

| what | {held_phantoms} phantoms | Task04 |
|---|---|---|
{rows}

The earlier `mini`, whose text tower knew its captions only, had a recall of {earlier_recall} on Task04's slices. Of
real slices and their patches the image tower knows little: it has seen phantoms only.

SHA-256 as hippo_nnunet records it (weights, activation, preprocessing, convention): `{sha256}`
"""
ROWS = {
    "slices": "slices",
    "recall": "recall by the class prompts",
    "recall_background": "- nothing of the hippocampus",
    "recall_anterior": "- anterior",
    "recall_posterior": "- posterior",
    "recall_by_paraphrases": "recall by held-out paraphrases",
    "off_topic": "slices nearer to a text on another topic than to any class",
    "patch_recall": "patches: recall by the class prompts",
    "patch_recall_background": "- background",
    "patch_recall_anterior": "- anterior",
    "patch_recall_posterior": "- posterior",
}
EARLIER_RECALL = "50 %"


def card(record: Mapping[str, Any], sizes: Mapping[str, float]) -> str:
    """Return the model card."""

    def cell(judged: Mapping[str, Any] | None, name: str) -> str:
        if judged is None:
            return "not measured"
        return str(judged[name]) if name == "slices" else f"{judged[name]:.1%}"

    rows = [
        f"| {meaning} | {cell(record['phantoms'], name)} | {cell(record['task04'], name)} |"
        for name, meaning in ROWS.items()
    ]
    text = record["text_tower"]
    return CARD.format(
        **{
            **text,
            **record["texts"],
            **{name: value for name, value in record.items() if name != "history"},
            "text_cpu_seconds": text["cpu_seconds"],
            "texts": text["texts"],
            **sizes,
        },
        rows="\n".join(rows),
        stages="\n".join(f"  - {stage}" for stage in record["history"]),
        off_topics=len(OFF_TOPIC),
        earlier_recall=EARLIER_RECALL,
        dog=", ".join(f"{cosine:.2f}" for cosine in record["texts"]["cosines_of_dog"]),
        pairs=", ".join(f"{cosine:.2f}" for cosine in record["texts"]["cosines_of_classes"]),
    )


def main() -> None:
    """Train, judge on other phantoms and on Task04, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--phantoms", type=int, default=240, help="to train on")
    parser.add_argument("--held-out", type=int, default=16, help="phantoms to judge on")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--text", type=Path, help="new text tower; default: that of the bundled model")
    parser.add_argument(
        "--start", type=Path, help="weights whose image tower is trained further; default: from scratch"
    )
    parser.add_argument("--out", type=Path, default=MINI_FOLDER)
    parser.add_argument("--overwrite", action="store_true")
    options = parser.parse_args()
    weights = options.out / "model.safetensors"
    if weights.exists() and not options.overwrite:
        parser.error(f"{weights} exists: pass --overwrite")

    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(options.seed)
    configuration = read_object(MINI_FOLDER / "open_clip_config.json")
    model = open_clip.CLIP(**configuration["model_cfg"])
    preprocessing = Preprocessing.of({**configuration["preprocess_cfg"], "size": model.visual.image_size})
    tokenizer = open_clip.SimpleTokenizer(context_length=model.context_length)

    def text_tower() -> dict[str, torch.Tensor]:
        tower = load_file(options.text or MINI_FOLDER / "model.safetensors")
        return {name: value for name, value in tower.items() if not name.startswith(("visual.", "logit_scale"))}

    slices = phantoms(options.seed, 0, options.phantoms, preprocessing)
    held_out = phantoms(options.seed, 1, options.held_out, preprocessing)
    print(f"{len(slices)} slices to train on, {len(held_out)} held out, {time.process_time():.0f} s of CPU", flush=True)
    model.load_state_dict(text_tower(), strict=False)
    encoder = CLIPEncoder(MINI.name, model, tokenizer, preprocessing, quick_gelu=False)
    texts_of_training = Texts.of(encoder)
    model.visual.requires_grad_(True)
    if options.start:
        tower = {n: value for n, value in load_file(options.start).items() if n.startswith("visual.")}
        model.load_state_dict(tower, strict=False)
    losses = train(model, slices, texts_of_training, preprocessing, options.steps, options.seed)
    spent = round(time.process_time())
    before = options.start.with_name(MINI_RECORD.name) if options.start else None
    history = read_object(before).get("history", []) if before and before.is_file() else []
    history.append(f"{options.steps} steps of {BATCH} slices of {options.phantoms} phantoms, seed {options.seed}")

    # What is judged and hashed is what is stored.
    state = {name: value.half().contiguous() for name, value in model.eval().state_dict().items()} | text_tower()
    with atomic_path(weights) as temporary:
        temporary.write_bytes(save(state))  # save_file would hide it from other users
    model.load_state_dict(state)
    encoder = CLIPEncoder(MINI.name, model, tokenizer, preprocessing, quick_gelu=False)
    texts = {
        "prompts": of_each_class(encoder, class_prompts(TASK04)),
        "paraphrases": of_each_class(encoder, [PARAPHRASES[name] for name in CLASSES]),
        "off_topic": encoder.encode_text(OFF_TOPIC),
    }
    text_record = options.text.with_suffix(".json") if options.text else MINI_RECORD
    text_record = read_object(text_record).get("text_tower") or read_object(text_record)
    task = os.environ.get("HIPPO_TASK04")
    record = {
        "sha256": encoder.sha256,
        "steps": options.steps,
        "batch": BATCH // 3 * 3,
        "seed": options.seed,
        "threads": options.threads,
        "cpu_seconds": spent,
        "train_phantoms": options.phantoms,
        "train_slices": len(slices),
        "held_phantoms": options.held_out,
        "history": history,
        "losses": losses,
        "torch": torch.__version__,
        "open_clip": open_clip.__version__,
        "text_tower": text_record,
        "texts": judge_texts(encoder, texts),
        "phantoms": judge_images(model, held_out, texts, preprocessing),
        "task04": judge_images(model, real_slices(Path(task), preprocessing), texts, preprocessing) if task else None,
    }
    write_json(options.out / "open_clip_config.json", configuration, indent=2)
    write_json(options.out / "training.json", record, indent=2)
    sizes = {"parameters": sum(p.numel() for p in model.parameters()), "size_mb": weights.stat().st_size / 1e6}
    write_text(options.out / "MODEL_CARD.md", card(record, sizes))
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
