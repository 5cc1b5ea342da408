"""Train the bundled CLIP `mini` on phantom slices and captions of what they show; write weights, figures and card.

    python scripts/train_mini_clip.py --overwrite

About four minutes on two cores. Seeded: the same machine, versions and number of threads give the same weights.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
from safetensors.torch import save

from hippo_nnunet.clip.encoder import CLIPEncoder
from hippo_nnunet.clip.models import MINI, MINI_FOLDER
from hippo_nnunet.clip.preprocessing import Preprocessing
from hippo_nnunet.clip.prompts import class_prompts
from hippo_nnunet.clip.text import class_embeddings
from hippo_nnunet.data.phantom import make_case
from hippo_nnunet.files import atomic_path, write_json, write_text

BATCH = 96
PEAK_RATE = 1e-3
WARM_UP = 0.1  # of the steps
CLASSES = {"labels": {"background": 0, "anterior": 1, "posterior": 2}}
NAMES = ("none", "anterior", "posterior")

# The first phrase of each is the one of the captions that are retrieved.
PARTS = {
    "none": ("no hippocampus", "nothing of the hippocampus", "brain tissue around the hippocampus"),
    "anterior": ("the head of the hippocampus", "the anterior hippocampus", "the wide front end of the hippocampus"),
    "mostly anterior": (
        "mostly the head of the hippocampus and some of its body",
        "the anterior hippocampus with a little of the posterior",
    ),
    "mostly posterior": (
        "mostly the body and tail of the hippocampus and some of its head",
        "the posterior hippocampus with a little of the anterior",
    ),
    "posterior": (
        "the body and tail of the hippocampus",
        "the posterior hippocampus",
        "the narrow rear part of the hippocampus",
    ),
}
# Each word describes shares of the slice up to its limit.
AMOUNTS = ((0.03, "a trace"), (0.08, "a small region"), (0.15, "a moderate region"), (1.0, "a large region"))
PHRASINGS = (
    "{part}, {amount}, at the {where}",
    "{amount} of {part} at the {where} of a brain MRI slice",
    "a brain MRI slice with {part}, about {percent} percent of it, at the {where}",
    "at the {where} there is {amount}: {part}",
    "{part}, covering {percent} percent of the slice",
)


@dataclass(frozen=True)
class Slice:
    """A slice of a phantom.

    Args:
        image: float32 (y, x), z-scores over the whole phantom, in the radiological convention: the front on top, the
            patient's right on the left.
        label: uint8 (y, x).
    """

    image: np.ndarray
    label: np.ndarray

    @property
    def shown(self) -> int:
        """0 nothing, 1 the anterior part or more of it than of the posterior one, 2 the other way round."""
        anterior, posterior = (self.label == 1).sum(), (self.label == 2).sum()
        return 0 if anterior + posterior == 0 else 1 if anterior >= posterior else 2


def phantom_slices(seed: int, split: int, count: int) -> list[Slice]:
    """Return all slices of some phantoms, across z, as nnU-Net's 2D configuration shows them to CLIP."""
    slices = []
    for number in range(count):
        case = make_case(np.random.default_rng((seed, split, number)))
        image = case.image.astype(np.float32)
        image = (image - image.mean()) / image.std()
        image, label = (array.T[:, ::-1, ::-1].copy() for array in (image, case.label))  # phantoms grow to RAS
        slices += [Slice(*pair) for pair in zip(image, label, strict=True)]
    return slices


def augment(piece: Slice, rng: np.random.Generator) -> Slice:
    """Crop, mirror left and right, change brightness and contrast, add noise."""
    image, label = piece.image, piece.label
    for axis, size in enumerate(image.shape):
        kept = rng.integers(math.ceil(0.8 * size), size + 1)
        start = rng.integers(0, size - kept + 1)
        image, label = (array.take(range(start, start + kept), axis) for array in (image, label))
    if rng.random() < 0.5:
        image, label = image[:, ::-1], label[:, ::-1]
    noise = rng.uniform(0, 0.15) * rng.standard_normal(image.shape)
    image = image * rng.uniform(0.8, 1.2) + rng.uniform(-0.3, 0.3) + noise
    return Slice(image.astype(np.float32), label.copy())


def attributes(label: np.ndarray) -> dict[str, str]:
    """Which part a slice shows, how much of it, how large it is, and where."""
    foreground = label > 0
    if not foreground.any():
        return {"part": "none"}
    share = float(foreground.mean())
    head = float((label == 1).sum() / foreground.sum())
    part = ("posterior", "mostly posterior", "mostly anterior", "anterior")[int(np.searchsorted((0.1, 0.5, 0.9), head))]
    y, x = (np.mean(index) / size for index, size in zip(np.nonzero(foreground), label.shape, strict=True))
    depth = ("front", "middle", "back")[min(int(3 * y), 2)]
    side = ("left", "middle", "right")[min(int(3 * x), 2)]
    where = depth if side == "middle" else side if depth == "middle" else f"{depth} {side}"
    amount = next(word for limit, word in AMOUNTS if share <= limit)
    return {"part": part, "amount": amount, "where": where, "percent": str(max(1, round(100 * share)))}


def plain_caption(label: np.ndarray) -> str:
    """The one caption that is retrieved: always in the same words."""
    found = attributes(label)
    first = PARTS[found["part"]][0]
    return first if found["part"] == "none" else PHRASINGS[0].format(**{**found, "part": first})


def caption(label: np.ndarray, rng: np.random.Generator) -> str:
    """One of many ways to say what a slice shows; a quarter of them is a prompt of the class it shows most of."""
    found = attributes(label)
    if rng.random() < 0.25:
        shown = Slice(label, label).shown
        return str(rng.choice(class_prompts(CLASSES)[shown]))
    phrase = str(rng.choice(PARTS[found["part"]]))
    return phrase if found["part"] == "none" else str(rng.choice(PHRASINGS)).format(**{**found, "part": phrase})


def preprocess(pieces: list[Slice], preprocessing: Preprocessing) -> torch.Tensor:
    """Preprocess slices of any size as `CLIPEncoder.encode_image` does; shape (n, 3, size, size)."""
    return torch.cat([preprocessing(torch.from_numpy(piece.image)[None, None]) for piece in pieces])


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then half a cosine to zero."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return PEAK_RATE * (step + 1) / warm
    return PEAK_RATE * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def train(model: open_clip.CLIP, slices: list[Slice], preprocessing: Preprocessing, steps: int, seed: int) -> float:
    """Train with open_clip's contrastive loss; returns the mean loss of the last tenth of the steps."""
    rng = np.random.default_rng((seed, 2))
    tokenizer = open_clip.SimpleTokenizer(context_length=model.context_length)
    by_class = [[piece for piece in slices if piece.shown == shown] for shown in range(3)]
    matrices = [p for name, p in model.named_parameters() if p.ndim > 1 and "embedding" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim <= 1 or "embedding" in name]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], betas=(0.9, 0.98)
    )
    loss_of = open_clip.ClipLoss()
    losses = []
    model.train()
    start = time.monotonic()
    for step in range(steps):
        # As many slices of each class: about half of a phantom's show both parts, few show none.
        pool = [by_class[number % 3] for number in range(BATCH)]
        batch = [augment(of_class[rng.integers(len(of_class))], rng) for of_class in pool]
        tokens = tokenizer([caption(piece.label, rng) for piece in batch])
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps)
        image = model.encode_image(preprocess(batch, preprocessing), normalize=True)
        text = model.encode_text(tokens, normalize=True)
        loss = loss_of(image, text, model.logit_scale.exp())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        losses.append(loss.item())
        if (step + 1) % max(1, steps // 20) == 0:
            print(f"step {step + 1}/{steps}: loss {losses[-1]:.3f}, {time.monotonic() - start:.0f} s", flush=True)
    return float(np.mean(losses[-max(1, steps // 10) :]))


def embed(encoder: CLIPEncoder, pieces: list[Slice]) -> torch.Tensor:
    """Return the embeddings of slices of any size, shape (n, embed_dim)."""
    return torch.cat([encoder.encode_image(torch.from_numpy(piece.image)[None, None].clone()) for piece in pieces])


def evaluate(encoder: CLIPEncoder, held_out: list[Slice], seed: int) -> dict[str, float]:
    """Retrieval among slices no two of which have the same caption, and classification by the classes' prompts."""
    order = np.random.default_rng((seed, 3)).permutation(len(held_out))
    one_each = {plain_caption(held_out[index].label): held_out[index] for index in order}
    images = embed(encoder, list(one_each.values()))
    ranks = (images @ encoder.encode_text(list(one_each)).T).argsort(dim=1, descending=True)
    hits = ranks == torch.arange(len(one_each))[:, None]
    classes = class_embeddings(encoder, CLASSES)
    found = (embed(encoder, held_out) @ classes.T).argmax(dim=1)
    shown = torch.tensor([piece.shown for piece in held_out])
    recalls = [float((found[shown == number] == number).float().mean()) for number in range(3)]
    return {
        "retrieval_captions": len(one_each),
        "retrieval_top1": float(hits[:, :1].any(dim=1).float().mean()),
        "retrieval_top1_chance": 1 / len(one_each),
        "retrieval_top5": float(hits[:, :5].any(dim=1).float().mean()),
        "retrieval_top5_chance": min(1.0, 5 / len(one_each)),
        "parts_slices": len(held_out),
        "parts_balanced_accuracy": float(np.mean(recalls)),
        "parts_chance": 1 / 3,
        **{f"parts_recall_{name}": recall for name, recall in zip(NAMES, recalls, strict=True)},
        "similarity_of_anterior_and_posterior_prompts": float(classes[1] @ classes[2]),
    }


CARD = """# `mini`: a small CLIP for the demo and the tests

**Not for research claims.** It has seen synthetic phantoms only. It is here so that the CLIP-guided network can be
shown and tested without a network connection; take `ViT-B-32` or another pretrained CLIP for results.

- **Architecture**: open_clip's CLIP with its own tokenizer. Vision transformer on 64x64 pixels in patches of 8, width
  96, 4 layers; text transformer of width 32, 3 layers, 48 tokens; embeddings of 64 numbers; {parameters:,} parameters,
  float16, {size_mb:.1f} MB. See `open_clip_config.json`.
- **Data**: {train_slices} slices of {train_phantoms} phantoms (`hippo_nnunet/data/phantom.py`), cropped, mirrored left
  and right, with changed contrast and noise. Captions are generated from the reference labels: which part, how much of
  it, how large, where, in several phrasings; a quarter are prompts of `hippo_nnunet/clip/prompts.py`.
- **Training**: open_clip's contrastive loss, {steps} steps of {batch} pairs, AdamW, {seconds:.0f} s. Loss at the end
  {loss:.2f}, that of chance {chance_loss:.2f}. The same machine, versions and threads make the same weights again:
  `python scripts/train_mini_clip.py --steps {steps} --seed {seed} --phantoms {train_phantoms} --threads {threads}`
- **Licence**: that of hippo_nnunet. No image or text of others was used.

## On {held_phantoms} phantoms that it has not seen

| what | result | chance |
|---|---|---|
| first of {retrieval_captions} captions | {retrieval_top1:.1%} | {retrieval_top1_chance:.1%} |
| among the first five | {retrieval_top5:.1%} | {retrieval_top5_chance:.1%} |
| part shown: mean recall, {parts_slices} slices | {parts_balanced_accuracy:.1%} | {parts_chance:.1%} |

The first two rows find the caption of a slice; no two of the captions are the same. The third asks, by the class
prompts alone, whether a slice shows nothing of the hippocampus, mostly the anterior or mostly the posterior part.

Recall: nothing {parts_recall_none:.1%}, anterior {parts_recall_anterior:.1%}, posterior {parts_recall_posterior:.1%}.
Cosine similarity of the anterior and posterior classes' embeddings: {similarity_of_anterior_and_posterior_prompts:.2f}.

SHA-256 as hippo_nnunet records it (weights, activation, preprocessing): `{sha256}`
"""


def main() -> None:
    """Train, evaluate on other phantoms, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=700)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--phantoms", type=int, default=240, help="to train on")
    parser.add_argument("--held-out", type=int, default=24, help="phantoms to evaluate on")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=MINI_FOLDER)
    parser.add_argument("--overwrite", action="store_true")
    options = parser.parse_args()
    weights = options.out / "model.safetensors"
    if weights.exists() and not options.overwrite:
        parser.error(f"{weights} exists: pass --overwrite")

    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(options.seed)
    configuration = (MINI_FOLDER / "open_clip_config.json").read_text(encoding="utf-8")
    content = json.loads(configuration)
    model = open_clip.CLIP(**content["model_cfg"])
    preprocessing = Preprocessing.of({**content["preprocess_cfg"], "size": model.visual.image_size})

    start = time.monotonic()
    slices = phantom_slices(options.seed, 0, options.phantoms)
    held_out = phantom_slices(options.seed, 1, options.held_out)
    print(f"{len(slices)} slices to train on, {len(held_out)} held out, {time.monotonic() - start:.0f} s", flush=True)
    loss = train(model, slices, preprocessing, options.steps, options.seed)
    seconds = time.monotonic() - start

    # What is evaluated and hashed is what is stored: float16.
    model.half().float()
    state = {name: values.half().contiguous() for name, values in model.state_dict().items()}
    tokenizer = open_clip.SimpleTokenizer(context_length=model.context_length)
    encoder = CLIPEncoder(MINI.name, model, tokenizer, preprocessing, quick_gelu=False)
    with atomic_path(weights) as temporary:
        temporary.write_bytes(save(state))  # save_file would hide it from other users
    record = {
        "sha256": encoder.sha256,
        "steps": options.steps,
        "batch": BATCH,
        "seed": options.seed,
        "threads": options.threads,
        "seconds": round(seconds, 1),
        "train_phantoms": options.phantoms,
        "train_slices": len(slices),
        "held_phantoms": options.held_out,
        "loss": loss,
        "chance_loss": math.log(BATCH),
        "torch": torch.__version__,
        "open_clip": open_clip.__version__,
        **evaluate(encoder, held_out, options.seed),
    }
    write_text(options.out / "open_clip_config.json", configuration)
    write_json(options.out / "training.json", record, indent=2)
    sizes = {"parameters": sum(p.numel() for p in model.parameters()), "size_mb": weights.stat().st_size / 1e6}
    write_text(options.out / "MODEL_CARD.md", CARD.format(**record, **sizes))
    print(json.dumps(record, indent=2))


if __name__ == "__main__":
    main()
