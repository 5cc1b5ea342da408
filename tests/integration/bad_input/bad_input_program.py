"""Bad input of `env`, `doctor`, `register` and `clip`, and of the program as a whole: words, folders, variables."""

from __future__ import annotations

from bad_input import Bad, Damage, closed, text

TRAIN = "train --root {root} -d 4 -c 2d -f 0"
PLAN = "plan --root {root} -d 4"
FOLDERS = {
    "nnUNet_raw": "{root}/nnUNet_raw",
    "nnUNet_preprocessed": "{root}/nnUNet_preprocessed",
    "nnUNet_results": "{root}/nnUNet_results",
}
NNUNET = {"hippo_nnunet.nnunet.registration.find_nnunet": lambda world: lambda: world.at("{base}/nnunetv2")}


def _nnunet(*folders: str) -> tuple[Damage, ...]:
    return tuple(text(f"{{base}}/nnunetv2/{name}/__init__.py", "") for name in folders)


ROWS = (
    Bad("no such command", "nonsense", ("No such command 'nonsense'",), code=2),
    Bad("path that is too long", "data check " + "a" * 300, ("File name too long", "check the path")),
    Bad("no such option", "env --rooot x", ("No such option: --rooot",), code=2),
    Bad("surplus argument", "list surplus", ("unexpected extra argument",), code=2),
    Bad("no such command of a group", "data destroy", ("No such command 'destroy'",), code=2),
    Bad("folders are unset", "env", ("nnUNet_raw, nnUNet_preprocessed, nnUNet_results not set", "--root DIR")),
    Bad(
        "results folder is unset",
        "train -d 4 -c 2d -f 0 -device cpu",
        ("nnUNet_results is not set", "--root DIR", "export nnUNet_results"),
        environ={k: v for k, v in FOLDERS.items() if k != "nnUNet_results"},
    ),
    Bad(
        "preprocessed folder is unset",
        "plan -d 4",
        ("nnUNet_preprocessed is not set", "--root DIR"),
        environ={"nnUNet_raw": FOLDERS["nnUNet_raw"]},
    ),
    Bad("an option of another check", "doctor --output {out}/c.json", ("--output", "goes with --training"), code=2),
    Bad("raw folder is unset", "data convert {task}", ("nnUNet_raw is not set", "--root DIR", "export nnUNet_raw")),
    Bad(
        "root is a file",
        "env --root {base}/file",
        ("nnUNet_raw={base}/file/nnUNet_raw: Not a directory", "choose a folder"),
        (text("{base}/file", ""),),
    ),
    Bad(
        "root of a user who is not there",
        "env --root ~nobody-at-all/x",
        ("~nobody-at-all/x", "home", "write the folder out"),
    ),
    Bad(
        "folder of a user who is not there",
        "run ~nobody-at-all/x --task {task}",
        ("~nobody-at-all/x", "home", "write the folder out"),
    ),
    Bad(
        "name of a folder that is too long", "env --root {base}/" + "x" * 300, ("File name too long", "choose a folder")
    ),
    Bad(
        "preprocessed folder is a file",
        PLAN,
        ("nnUNet_preprocessed={base}/file", "choose a folder"),
        (text("{base}/file", ""),),
        environ={"nnUNet_preprocessed": "{base}/file"},
    ),
    Bad(
        "results folder is read-only",
        TRAIN,
        ("nnUNet_results=", "Permission denied", "choose a folder that you can write to"),
        (closed("{root}/nnUNet_results", 0o500),),
        unprivileged=True,
    ),
    Bad(
        "folders are relative to another place",
        "plan -d 4",
        ("dataset '4' is not in", "elsewhere", "data convert"),
        environ=dict.fromkeys(FOLDERS, "elsewhere"),
    ),
    Bad(
        "doctor of a user who is not there",
        "doctor --root ~nobody-at-all/x",
        ("~nobody-at-all/x", "home", "write the folder out"),
    ),
    Bad(
        "registration over a file of somebody else",
        "register",
        ("nnUNetTrainer/hippo_nnunet_trainers.py was not written by hippo-nnunet", "move it away"),
        (
            *_nnunet("training/nnUNetTrainer", "experiment_planning"),
            text("{base}/nnunetv2/training/nnUNetTrainer/hippo_nnunet_trainers.py", "mine\n"),
        ),
        replaced=NNUNET,
    ),
    Bad(
        "registration in another nnU-Net",
        "register",
        ("experiment_planning: no such folder", "pip install"),
        _nnunet("training/nnUNetTrainer"),
        replaced=NNUNET,
    ),
    Bad(
        "registration in a read-only nnU-Net",
        "register",
        (
            "cannot write",
            "hippo_nnunet_trainers.py: Permission denied",
            "env --root",
            "nnUNet_extTrainer",
            "plan -d ID -pl AttentionUNetPlanner",
        ),
        (
            *_nnunet("training/nnUNetTrainer", "experiment_planning"),
            closed("{base}/nnunetv2/training/nnUNetTrainer", 0o500),
        ),
        replaced=NNUNET,
        unprivileged=True,
    ),
    Bad(
        "registration that cannot be undone",
        "unregister",
        ("cannot remove", "Permission denied", "ask the owner"),
        (
            *_nnunet("training/nnUNetTrainer", "experiment_planning"),
            text(
                "{base}/nnunetv2/training/nnUNetTrainer/hippo_nnunet_trainers.py",
                "# `hippo-nnunet register` writes it\n",
            ),
            closed("{base}/nnunetv2/training/nnUNetTrainer", 0o500),
        ),
        replaced=NNUNET,
        unprivileged=True,
    ),
    Bad(
        "CLIP model that is unknown",
        "clip fetch --model ViT-Q-1",
        ("CLIP model ViT-Q-1", "correct HIPPO_CLIP_MODEL", "ViT"),
    ),
    Bad(
        "CLIP weights that are unknown",
        "clip fetch --model ViT-B-32 --weights nonsense",
        ("HIPPO_CLIP_WEIGHTS=nonsense", "open_clip has openai"),
    ),
    Bad(
        "weights of the bundled CLIP",
        "clip fetch --model mini --weights openai",
        ("CLIP model mini: has no weights 'openai'", "recipe word mini"),
    ),
    Bad(
        "CLIP weights that lead nowhere",
        "clip info --json",
        ("HIPPO_CLIP_WEIGHTS={base}/no.pt", "there is no such file", "correct or unset it"),
        environ={"HIPPO_CLIP_WEIGHTS": "{base}/no.pt", "HIPPO_CLIP_MODEL": "ViT-B-32"},
    ),
    Bad(
        "CLIP weights of a user who is not there",
        "clip fetch",
        ("HIPPO_CLIP_WEIGHTS=~nobody-at-all/x.pt", "correct or unset it"),
        environ={"HIPPO_CLIP_WEIGHTS": "~nobody-at-all/x.pt"},
    ),
    Bad(
        "CLIP weights without a model",
        "clip fetch",
        ("is a file, which does not say what architecture", "HIPPO_CLIP_MODEL"),
        environ={"HIPPO_CLIP_WEIGHTS": "{zip}"},
    ),
    Bad(
        "CLIP weights that are none",
        "clip fetch",
        ("CLIP weights {zip}", "do not load strictly into ViT-B-32", "HIPPO_CLIP_MODEL"),
        environ={"HIPPO_CLIP_WEIGHTS": "{zip}", "HIPPO_CLIP_MODEL": "ViT-B-32"},
    ),
    Bad(
        "CLIP model of the environment that is unknown",
        "clip fetch",
        ("CLIP model ViT-Q-1", "HIPPO_CLIP_MODEL"),
        environ={"HIPPO_CLIP_MODEL": "ViT-Q-1"},
    ),
    Bad(
        "probed dataset that is not there",
        "clip probe --dataset 77 --model mini --root {base}",
        ("dataset '77' is not in", "hippo-nnunet data convert SOURCE"),
    ),
)
