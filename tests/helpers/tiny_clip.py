"""Small CLIP models of every layout that open_clip knows, made on the spot with random weights."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file

WORDS = ("the", "head", "tail", "body", "of", "hippocampus", "a", "brain", "mri", "slice", "tissue", "no", "##s")
PREPROCESS = {
    "mean": [0.1, 0.2, 0.3],
    "std": [0.4, 0.5, 0.6],
    "interpolation": "bilinear",
    "resize_mode": "squash",
}
TINY: dict[str, Any] = {
    "embed_dim": 8,
    "vision_cfg": {"image_size": 16, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 8, "heads": 1, "layers": 1},
}
BIOMED: dict[str, Any] = {  # as BiomedCLIP's configuration, with smaller towers
    "embed_dim": 8,
    "vision_cfg": {"timm_model_name": "test_vit", "timm_model_pretrained": False, "timm_pool": "",
                   "timm_proj": "linear", "image_size": 160},
    "text_cfg": {
        "hf_model_name": "acme/tiny-bert",
        "hf_tokenizer_name": "acme/tiny-bert",
        "hf_proj_type": "mlp",
        "hf_pooler_type": "cls_last_hidden_state_pooler",
        "context_length": 16,
    },
}  # fmt: skip
SIGLIP: dict[str, Any] = {  # timm's tower with attention pooling, a tokenizer of transformers, a bias of the logits
    "embed_dim": 64,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {"timm_model_name": "test_vit3", "timm_model_pretrained": False, "timm_pool": "map",
                   "timm_proj": "none", "image_size": 160},
    "text_cfg": {
        **TINY["text_cfg"],
        "vocab_size": 32,
        "hf_tokenizer_name": "acme/tiny-tokenizer",
        "tokenizer_kwargs": {"clean": "canonicalize"},
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
    },
}  # fmt: skip
COCA: dict[str, Any] = {
    "embed_dim": 8,
    "custom_text": True,
    "vision_cfg": {**TINY["vision_cfg"], "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    "text_cfg": {**TINY["text_cfg"], "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {**TINY["text_cfg"], "attn_pooler_heads": 1},
}
MOBILE: dict[str, Any] = {  # a convolutional tower of timm, CLIP's own tokenizer
    "embed_dim": 8,
    "custom_text": True,
    "vision_cfg": {"timm_model_name": "test_efficientnet", "timm_model_pretrained": False, "timm_pool": "avg",
                   "timm_proj": "linear", "image_size": 32},
    "text_cfg": {**TINY["text_cfg"], "no_causal_mask": True},
}  # fmt: skip


def write_model(folder: Path, model_cfg: dict[str, Any], checkpoint: str = "open_clip_model.safetensors") -> Path:
    """Write configuration, weights and, if the model needs one, the tokenizer, as a repository of the hub has them.

    Of a model with a text tower of transformers, the tower's config.json lies there too, as in a folder that a user
    has put together.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = model_cfg["text_cfg"]
    if "hf_tokenizer_name" in text:
        write_tokenizer(folder, tower="hf_model_name" in text)
    local = json.loads(json.dumps(model_cfg))
    if "hf_model_name" in text:
        local["text_cfg"]["hf_model_name"] = str(folder)
    config = folder / "open_clip_config.json"
    config.write_text(json.dumps({"model_cfg": local}))
    torch.manual_seed(0)
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False)
    config.write_text(json.dumps({"model_cfg": model_cfg, "preprocess_cfg": PREPROCESS}))
    if checkpoint.endswith(".safetensors"):
        save_file(model.state_dict(), folder / checkpoint)
    else:
        torch.save(model.state_dict(), folder / checkpoint)
    return folder


def write_tokenizer(folder: Path, tower: bool = True) -> Path:
    """Write a BERT's vocabulary and, for a tower, its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "BertTokenizer", "do_lower_case": True})
    )
    if tower:
        tiny = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        bert = {"model_type": "bert", "vocab_size": len(vocabulary), "max_position_embeddings": 16, "pad_token_id": 0}
        (folder / "config.json").write_text(json.dumps({**bert, **tiny}))
    return folder


def to_cache(cache: Path, repository: str, folder: Path, *names: str) -> Path:
    """Put files of a folder (all of them by default) into the hub's cache, as its client lays them out."""
    root = cache / f"models--{repository.replace('/', '--')}"
    snapshot = root / "snapshots" / "1234"
    for made in (snapshot, root / "refs", root / "blobs"):
        made.mkdir(parents=True, exist_ok=True)
    (root / "refs" / "main").write_text("1234")
    for file in [folder / name for name in names] or list(folder.iterdir()):
        blob = root / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        shutil.copy(file, blob)
        (snapshot / file.name).symlink_to(blob)
    return snapshot
