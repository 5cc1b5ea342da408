"""Names and numbers as anybody may type them: trainers, variants, datasets, folds, cases."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from fuzzing import Fuzz, refusal
from hypothesis import strategies as st
from mutations import NAMES

from hippo_nnunet.data.cases import find_cases
from hippo_nnunet.data.check import check_dataset
from hippo_nnunet.data.fetch import _file_name
from hippo_nnunet.data.finding import findings_json, print_findings
from hippo_nnunet.experiment.request import Request, parse_folds, resolve
from hippo_nnunet.nnunet.paths import NnunetFolders
from hippo_nnunet.nnunet.preprocessed import dataset_name
from hippo_nnunet.training import recipe_words, recipes

pytestmark = pytest.mark.fuzz

WORDS = st.one_of(
    st.sampled_from([word for group in recipe_words.WORD_GROUPS for word in group.words]),
    st.sampled_from(["5epochs", "0epochs", "seed1", "seed01", "10iters", "²epochs", "Flip", ""]),
    NAMES,
)
BASES = st.one_of(st.sampled_from([*recipe_words.BASES, "UNet", "AttentionUNet", "CLIPGuidedUNet"]), NAMES)
RECIPES = st.builds(lambda base, words: "_".join([base, *words]), BASES, st.lists(WORDS, max_size=5))


def _can_be_a_file(name: str) -> bool:
    try:
        return 0 < len(name.encode(errors="surrogateescape")) < 200 and not set("/\0") & set(name)
    except UnicodeEncodeError:
        return False


@pytest.fixture
def folders(tmp_path: Path) -> NnunetFolders:
    (tmp_path / "raw" / "Dataset004_Phantom").mkdir(parents=True)
    return NnunetFolders(tmp_path / "raw", tmp_path / "preprocessed", tmp_path / "results")


def test_trainers(fuzz: Fuzz) -> None:
    def check(name: str) -> None:
        if not refusal(lambda: recipes.parse(name)):
            assert recipes.parse(name).name == name
        assert recipes.parse(recipes.suggest(name)).name == recipes.suggest(name)

    fuzz(check, RECIPES, 100)


def test_datasets(fuzz: Fuzz, folders: NnunetFolders) -> None:
    fuzz(lambda name: refusal(lambda: dataset_name(name, folders)), st.one_of(NAMES, NAMES.map("Dataset{}".format)), 60)


def test_folds(fuzz: Fuzz) -> None:
    pieces = st.sampled_from(["0", "4", "5", "-", ",", "=", "2d", "all", " ", "9" * 30, "0-", "2d=0-4", "²"])
    texts = st.one_of(NAMES, st.lists(pieces, max_size=6).map("".join))

    def check(text: str) -> None:
        found: list[dict[str, tuple[int, ...]]] = []
        if not refusal(lambda: found.append(parse_folds(text, ["2d"], 5))):
            assert set(found[0]["2d"]) <= set(range(5))

    fuzz(check, texts, 100)


def test_requests(fuzz: Fuzz, folders: NnunetFolders, tmp_path: Path) -> None:
    option = st.one_of(st.none(), NAMES)
    requests = st.builds(
        Request,
        task=st.one_of(st.none(), NAMES.filter(_can_be_a_file).map(Path)),
        dataset=st.one_of(st.just("4"), option),
        variants=st.one_of(option, st.lists(RECIPES, max_size=3).map(",".join)),
        configurations=st.one_of(option, st.sampled_from(["2d", "2d,3d_fullres", "2d,,2d"])),
        folds=option,
        preset=st.one_of(option, st.just("laptop")),
        epochs=st.one_of(st.none(), st.integers()),
        iterations=st.one_of(st.none(), st.integers()),
    )

    def check(request: Request) -> None:
        made = []
        if not refusal(lambda: made.append(resolve(request, tmp_path / "experiment", folders, "cpu"))):
            for cell in made[0].cells():
                assert ".." not in cell.marker.parts
                assert "/" not in cell.configuration

    fuzz(check, requests, 60)


def test_addresses(fuzz: Fuzz) -> None:
    pieces = st.sampled_from(
        ["http://", "https://", "[", "]", ":", "@", "//", "a.tar", "%2e%2e", "%00", "?", "#", ".."]
    )
    texts = st.one_of(st.text(max_size=20), st.lists(st.one_of(pieces, st.text(max_size=4)), max_size=6).map("".join))

    def check(text: str) -> None:
        found: list[str] = []
        if not refusal(lambda: found.append(_file_name(text))):
            assert "/" not in found[0] and found[0] not in ("", ".", "..")

    fuzz(check, texts, 100)


def test_case_names(fuzz: Fuzz, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    number = iter(range(10**9))
    sys.stdout.reconfigure(errors="backslashreplace")  # as the program does

    def check(names: list[str]) -> None:
        folder = tmp_path / str(next(number))
        (folder / "imagesTr").mkdir(parents=True)
        (folder / "dataset.json").write_text(
            '{"channel_names": {"0": "MRI"}, "labels": {"background": 0}, "file_ending": ".nii.gz"}'
        )
        for name in names:
            (folder / "imagesTr" / f"{name}.nii.gz").touch()
        refusal(lambda: find_cases(folder / "imagesTr", 1))
        findings = check_dataset(folder)
        findings_json(findings)
        print_findings(findings, folder)
        capsys.readouterr()

    fuzz(check, st.lists(NAMES.filter(_can_be_a_file), min_size=1, max_size=3, unique=True))
