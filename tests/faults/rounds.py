"""Breaks the phantom experiment again and again: `python tests/faults/rounds.py --rounds 200 --seed 0`.

Round n of a seed is the same fault at the same stage in every run; the moment at which a process is hit also depends on
the machine. Every round is kept in the tally as soon as it has ended, and a second start goes on with those that are
missing. Prints a table; the exit code is 1 where a round was lost.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from fault_checks import broken_files, kept, leftovers, same_results
from fault_list import FAULTS
from fault_mounts import own_mounts
from fault_remedy import remedy
from fault_round import Fault, Round
from fault_world import World, build, wait_until_alone

ATTEMPTS = 6
"""Runs after which an experiment that has not recovered counts as lost."""


def play(world: World, fault: Fault, draw: random.Random, folder: Path, keep: bool = False) -> dict[str, Any]:
    """Break a copy, let it recover, and look at it; with `keep`, what is lost stays beside `folder`.

    Returns:
        The tally's entry: `outcome` is `alone`, `remedy` or `lost`.
    """
    shutil.rmtree(folder.parent, ignore_errors=True)
    folder.parent.mkdir(parents=True)
    round_ = Round(world, folder, draw)
    entry: dict[str, Any] = {"fault": fault.name, "remedies": []}
    begun, used = time.monotonic(), _cpu_s()
    try:
        fault.strike(round_)
        _recover(round_, entry["remedies"])
        _check(round_)
        entry["outcome"] = "remedy" if entry["remedies"] else "alone"
    except Exception as error:
        entry |= {"outcome": "lost", "why": str(error)[-3000:], "where": traceback.format_exc()[-1500:]}
    entry |= {
        "stage": round_.stage,
        "notes": round_.notes,
        "runs": round_.runs,
        "leftovers": leftovers(round_.folder),
        "seconds": round(time.monotonic() - begun, 1),
        "cpu_seconds": round(_cpu_s() - used, 1),
    }
    if round_.disk is not None:
        round_.disk.close()
    if entry["outcome"] != "lost" or not keep:
        shutil.rmtree(folder.parent, ignore_errors=True)
    return entry


def _recover(round_: Round, remedies: list[str]) -> None:
    """Follow each message and run again, until a run ends well."""
    ended = round_.last
    for _ in range(ATTEMPTS):
        if ended is not None and ended.code == 0:
            return
        if ended is not None and ended.code == 1:
            assert ended.error, f"no word of what to do: {ended.stderr[-2000:]}"
            assert "Traceback" not in ended.stderr, ended.stderr[-3000:]
            after = ended.stderr[ended.stderr.index(ended.error) :].strip()
            assert "\n" not in after, f"more than one line: {after}"
            done, whole = remedy(ended.error, round_.folder, round_.relieve)
            remedies.append(f"{ended.error} -> {done}")
            if whole:
                round_.options = round_.world.request
        started = round_.start()
        ended = started.end()
        wait_until_alone(round_.folder)
    raise AssertionError(f"not recovered after {ATTEMPTS} runs: {remedies[-2:]}")


def _check(round_: Round) -> None:
    round_.relieve()
    again = kept(round_.before, round_.folder, round_.same_times)
    assert not again, f"trained again: {again}"
    different = same_results(round_.folder, round_.world.whole)
    assert not different, f"other results: {different}"
    broken = broken_files(round_.folder)
    assert not broken, f"broken files: {broken}"
    if round_.resumes:
        records = [json.loads(path.read_text()) for path in round_.folder.rglob("hippo_training.json")]
        assert max(record["resumed"] for record in records) >= 1, "began anew although there was a checkpoint"


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def drawn(seed: int, number: int, faults: list[Fault]) -> tuple[Fault, random.Random]:
    """Return a round's fault and random numbers; each fault comes once before any comes twice."""
    cycle, position = divmod(number, len(faults))
    order = random.Random(f"{seed} {cycle}").sample(range(len(faults)), len(faults))
    return faults[order[position]], random.Random(f"{seed} {number}")


def table(entries: list[dict[str, Any]]) -> str:
    """Return a Markdown table of the outcomes."""
    lines = ["| fault | rounds | recovered by itself | after following a message | lost |", "|---|--:|--:|--:|--:|"]
    for name in [fault.name for fault in FAULTS]:
        counts = Counter(entry["outcome"] for entry in entries if entry["fault"] == name)
        if counts:
            lines.append(f"| {name} | {counts.total()} | {counts['alone']} | {counts['remedy']} | {counts['lost']} |")
    counts = Counter(entry["outcome"] for entry in entries)
    lines.append(f"| all | {counts.total()} | {counts['alone']} | {counts['remedy']} | {counts['lost']} |")
    seconds = [sum(entry[key] for entry in entries) for key in ("seconds", "cpu_seconds")]
    lines.append(f"\n{seconds[0]:.0f} s, {seconds[1]:.0f} s of CPU")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Play the rounds that the tally lacks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "hippo-faults")
    parser.add_argument("--jobs", type=int, default=1, help="rounds at once")
    parser.add_argument("--only", help="faults whose name holds this")
    parser.add_argument("--keep", action="store_true", help="keep the folder of a round that was lost")
    options = parser.parse_args(arguments)
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    mounts = own_mounts()
    faults = [fault for fault in FAULTS if mounts or not fault.mounts]
    if not mounts:
        print("no file systems of our own here: left out", ", ".join(f.name for f in FAULTS if f.mounts))
    faults = [fault for fault in faults if not options.only or options.only in fault.name]
    world = build(work)
    path = work / f"tally-{options.seed}{'-' + options.only if options.only else ''}.json"
    tally: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    numbers = [number for number in range(options.rounds) if str(number) not in tally]
    with ProcessPoolExecutor(options.jobs, get_context("spawn")) as pool:
        playing = {}
        for number in numbers:
            fault, draw = drawn(options.seed, number, faults)
            place = work / "rounds" / str(number)
            playing[pool.submit(play, world, fault, draw, place / "exp", options.keep)] = number
        for ended in as_completed(playing):
            number, entry = playing[ended], ended.result()
            tally[str(number)] = entry
            temporary = path.with_suffix(".tmp")
            temporary.write_text(json.dumps(tally, indent=1))
            temporary.replace(path)
            told = entry.get("why", "")[-600:] or "; ".join(entry["remedies"])
            notes = "; ".join(entry["notes"])
            print(f"{number}: {entry['fault']} at {entry['stage']} ({notes}): {entry['outcome']}", flush=True)
            print(f"    {entry['cpu_seconds']} s of CPU, {entry['runs']} runs. {told}", flush=True)
    entries = [entry for key, entry in tally.items() if int(key) < options.rounds]
    print(table(entries))
    return int(any(entry["outcome"] == "lost" for entry in entries))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
