"""A few hundred hostile files of every kind; `make fuzz` tries thousands."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from esrgan_lit.inference import winograd_library
from fuzzing import Case, kinds, plan, table, try_case
from judging import Verdict, judge

CASES = {
    "pictures": 120,
    "weights": 90,
    "metrics' files": 20,
    "packed folders": 60,
    "archives": 60,
    "caches": 48,
    "journals": 40,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for cases, and caches of their own."""
    folder = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "user"))
        for name in ("CXX", "no_proxy"):  # which consumers set
            patch.setenv(name, os.environ.get(name, ""))
            if not os.environ[name]:
                patch.delenv(name)
        yield folder / "case"
    winograd_library.library.cache_clear()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # files that NumPy leaves to be closed
@pytest.mark.parametrize("kind", CASES)
def test_hostile_files_are_processed_or_refused_clearly(kind: str, folder: Path) -> None:
    verdicts = [(case, try_case(case, folder)) for case in plan(CASES[kind], seed=0, kind=kind)]
    print(table(verdicts))
    faults = [f"{case}\n{verdict.why}" for case, verdict in verdicts if verdict.kind == "fault"]
    assert not faults, "\n\n".join(faults[:5])
    for consumer in kinds()[kind].consumers:
        tried = [verdict.kind for case, verdict in verdicts if case.consumer == consumer]
        assert len(tried) >= 5, f"{consumer} was hardly tried"


def test_a_case_is_made_again_from_its_number(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1e9)  # an archive holds when it was made
    case = Case("archives", "esrgan-data fetch", 22, 1)
    made = []
    for _ in range(2):
        try_case(case, folder, keep=True)
        [archive] = (folder / "given").glob("hostile.*")
        made.append(archive.read_bytes())
    assert made[0] == made[1]


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.parametrize(
    ("consume", "kind", "why"),
    [
        (lambda path: None, "processed", ""),
        (lambda path: _raise(ValueError(f"{path} is cut; copy it again")), "refused", "copy it again"),
        (lambda path: _raise(SystemExit(f"esrgan-upscale: {path} is cut")), "refused", "is cut"),
        (lambda path: _raise(ValueError("it is cut")), "fault", "names no file"),
        (lambda path: _raise(SystemExit(1)), "fault", "without a message"),
        (lambda path: _raise(ValueError(f"{path}\n" * 9)), "fault", "9 lines"),
        (lambda path: _raise(TypeError(f"{path}")), "fault", "TypeError"),
        (lambda path: _raise(AssertionError("left behind")), "fault", "left behind"),
        (lambda path: exec("while True: pass"), "fault", "hangs"),
    ],
)
def test_the_judge(consume, kind: str, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ANN001
    monkeypatch.setattr("judging.SECONDS", 0.5)
    monkeypatch.setattr("judging.MEGABYTES", 200)
    verdict = judge(consume, tmp_path / "hostile.png")
    assert isinstance(verdict, Verdict)
    assert verdict.kind == kind
    assert why in verdict.why


def test_the_judge_sees_memory() -> None:
    """In a process of its own, as cases are judged: here the C library may have kept as much of what was freed."""
    code = (
        "import sys; from pathlib import Path; import judging; judging.MEGABYTES = 200; "
        "print(judging.judge(lambda path: (b'1' * int(sys.argv[1])).find(b'0'), Path('hostile.png')).kind)"
    )
    for size, kind in ((300_000_000, "fault"), (1000, "processed")):
        command = [sys.executable, "-c", code, str(size)]
        result = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
        assert result.stdout.split() == [kind]
