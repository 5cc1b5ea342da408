"""The commands in README and docs exist, with the options and names that the text gives them."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from experiments import findings
from experiments.prompt_swap import means_table
from hippo_nnunet.cli.main import app
from hippo_nnunet.planners import PLANNERS
from hippo_nnunet.training import recipe_words, recipes
from scripts.results_table import with_tables

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def commands() -> list[tuple[str, list[str]]]:
    """Every `hippo-nnunet` and `nnUNetv2_` line of the bash blocks."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```bash\n(.*?)```", page.read_text(), flags=re.DOTALL):
            for line in block.splitlines():
                words = shlex.split(line, comments=True)
                if words and (words[0] == "hippo-nnunet" or words[0].startswith("nnUNetv2_")):
                    found.append((page.name, words))
    return found


@pytest.mark.parametrize(("page", "words"), commands(), ids=lambda value: " ".join(value) if value else "")
def test_a_command_of_the_docs_is_understood(page, words):
    if words[0] == "hippo-nnunet":
        command, rest = typer.main.get_command(app), words[1:]
        while rest and hasattr(command, "commands"):
            command, rest = command.commands[rest[0]], rest[1:]
        command.make_context(" ".join(words), list(rest))  # raises on an unknown option or a missing argument
    trainers = [words[i + 1] for i, word in enumerate(words) if word == "-tr"]
    planners = [words[i + 1] for i, word in enumerate(words) if word == "-pl"]
    assert all(recipes.parse(name) for name in trainers)
    assert set(planners) <= set(PLANNERS)


def test_there_are_commands_to_check():
    assert len(commands()) >= 10


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_recipes_that_the_text_names_are_right(page):
    for name in re.findall(r"`((?:Attention)?UNetTrainer[A-Za-z0-9_]*)`", page.read_text()):
        assert recipes.parse(name).name == name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_files_that_the_text_names_exist(page):
    text = page.read_text()
    links = re.findall(r"\]\((?!http)([^)#]+)\)", text)
    scripts = re.findall(r"`(?:python )?(scripts/[\w.]+)", text)
    for target in links:
        assert (page.parent / target).exists(), target
    for target in scripts:
        assert (ROOT / target).exists(), target


def test_every_word_is_in_the_recipes_page():
    text = (ROOT / "docs" / "recipes.md").read_text()
    words = [word for group in recipe_words.WORD_GROUPS for word in group.words]
    assert [word for word in [*recipe_words.BASES, *words] if f"`{word}`" not in text] == []


@pytest.mark.parametrize("page", [ROOT / "README.md", ROOT / "docs" / "results.md"], ids=lambda page: page.name)
def test_the_tables_of_the_text_are_the_results(page):
    text = page.read_text()
    assert "<!-- /" in text
    assert with_tables(text, ROOT / "results") == text, "python scripts/results_table.py --write"


def test_the_table_of_findings_is_that_of_the_results():
    listed = json.loads((ROOT / "experiments" / "findings.json").read_text())
    shown = findings.PAGE.read_text().partition(findings.OPENING)[2].partition(findings.CLOSING)[0].strip()
    assert shown == findings.findings_table(listed, ROOT / "results"), "python -m experiments.findings --write"


def test_the_table_of_the_prompt_swap_is_that_of_its_results():
    files = sorted((ROOT / "results" / "prompt-swap").glob("*.jsonl"))
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    table = means_table(rows)
    assert table in (ROOT / "docs" / "results.md").read_text(), f"docs/results.md needs this table:\n{table}"


def test_the_model_card_has_the_figures_of_the_packaged_model():
    command = [sys.executable, str(ROOT / "scripts" / "model_card.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
