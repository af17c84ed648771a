"""Try hostile files by the thousand: ``python tests/fuzz/fuzzing.py --cases 5000 --seed 1`` (``make fuzz``).

Every case is made from its seed, its kind's name and its number alone: ``--kind NAME --consumer NAME --only NUMBER``
makes it again. Cases run in a process of their own: one that crashes costs its case, and the next process goes on.
"""

import argparse
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
from judging import SECONDS, Kind, Verdict, judge  # noqa: E402 (found by the line above)


class Case(NamedTuple):
    """One hostile file for one consumer."""

    kind: str
    consumer: str
    number: int
    seed: int


def kinds() -> dict[str, Kind]:
    """Return all kinds of hostile files."""
    from hostile_caches import CACHES, JOURNALS
    from hostile_data import ARCHIVES, PACKED
    from hostile_pictures import PICTURES
    from hostile_weights import METRICS, WEIGHTS

    return {kind.name: kind for kind in (PICTURES, WEIGHTS, METRICS, PACKED, ARCHIVES, CACHES, JOURNALS)}


def try_case(case: Case, folder: Path, keep: bool = False) -> Verdict:
    """Make a case's file in a new folder, give it to its consumer and judge; the folder is removed again."""
    kind = kinds()[case.kind]
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "given").mkdir(parents=True)
    random = np.random.default_rng([case.seed, zlib.crc32(case.kind.encode()), case.number])
    path = kind.make(random, folder / "given")
    try:
        return judge(kind.consumers[case.consumer], path)
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)


def plan(count: int, seed: int, kind: str | None = None, consumer: str | None = None) -> list[Case]:
    """Share a number of cases among the kinds and their consumers."""
    pairs = [
        (name, each)
        for name, one in kinds().items()
        for each in one.consumers
        if kind in (None, name) and consumer in (None, each)
    ]
    return [Case(*pairs[number % len(pairs)], number // len(pairs), seed) for number in range(count)]


def run_apart(cases: Sequence[Case], cache: Path) -> Iterator[tuple[Case, Verdict]]:
    """Yield each case and its verdict, from a process that is begun anew where it crashes or does not answer."""
    done = 0
    while done < len(cases):
        ours, theirs = multiprocessing.get_context("spawn").Pipe()
        process = multiprocessing.get_context("spawn").Process(target=_work, args=(theirs, cases[done:], cache))
        process.start()
        theirs.close()
        try:
            while done < len(cases):
                if not ours.poll(20 * SECONDS):
                    process.kill()
                    raise EOFError
                yield cases[done], ours.recv()
                done += 1
        except (EOFError, ConnectionError):
            process.join()
            yield cases[done], Verdict("fault", f"the process ends with {process.exitcode}")
            done += 1
        process.join()


def _work(answers: Connection, cases: Sequence[Case], cache: Path) -> None:
    os.environ["XDG_CACHE_HOME"] = str(cache / "user")
    shutil.rmtree(cache / "user", ignore_errors=True)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    for case in cases:
        answers.send(try_case(case, cache / "case"))


def table(verdicts: Sequence[tuple[Case, Verdict]]) -> str:
    """Return the counts by kind and consumer, as Markdown."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for case, verdict in verdicts:
        counts.setdefault((case.kind, case.consumer), Counter())[verdict.kind] += 1
        counts.setdefault(("all", ""), Counter())[verdict.kind] += 1
    lines = ["| kind | given to | tried | processed | refused clearly | faults |", "|---|---|---:|---:|---:|---:|"]
    for (kind, consumer), found in sorted(counts.items(), key=lambda item: item[0][0] == "all"):
        figures = (found.total(), found["processed"], found["refused"], found["fault"])
        lines.append(f"| {kind} | {consumer} | {' | '.join(f'{figure:,}' for figure in figures)} |")
    return "\n".join(lines)


def main() -> None:
    """Run, print each fault with what makes it again, then the table; exit code 1 where there is a fault."""
    parser = argparse.ArgumentParser("fuzzing", description="Try hostile files by the thousand.")
    parser.add_argument("--cases", type=int, default=2000, help="how many (default: 2000)")
    parser.add_argument("--seed", type=int, default=0, help="of all cases (default: 0)")
    parser.add_argument("--kind", choices=kinds(), help="only this kind")
    parser.add_argument("--consumer", help="only this consumer")
    parser.add_argument("--only", type=int, help="only this number, in this process, its files kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="esrgan-fuzz-") as temporary:
        if options.only is not None:
            os.environ["XDG_CACHE_HOME"] = f"{temporary}/user"
            case = Case(options.kind, options.consumer, options.only, options.seed)
            folder = Path(tempfile.gettempdir()) / "esrgan-fuzz-case"
            print(*try_case(case, folder, keep=True), f"\nits files: {folder}", sep="\n")
            return
        verdicts, start = [], time.monotonic()
        for case, verdict in run_apart(
            plan(options.cases, options.seed, options.kind, options.consumer), Path(temporary)
        ):
            verdicts.append((case, verdict))
            if verdict.kind == "fault":
                print(
                    f"\nfault: --kind {case.kind} --consumer '{case.consumer}' --seed {case.seed} --only {case.number}"
                )
                print(verdict.why, flush=True)
    print(f"\n{table(verdicts)}\n\n{time.monotonic() - start:.0f} s, seed {options.seed}")
    sys.exit(any(verdict.kind == "fault" for _, verdict in verdicts))


if __name__ == "__main__":
    main()
