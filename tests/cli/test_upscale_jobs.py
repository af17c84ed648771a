"""The plan of very many files: memory does not grow with them, and it is as a list would be."""

import tracemalloc
from pathlib import Path

from esrgan_lit.cli.upscale_jobs import Job, Plan
from esrgan_lit.cli.upscale_plan import plan_jobs


def test_a_plan_is_a_list_that_jobs_are_taken_from() -> None:
    plan = Plan(Path("out"), one_file=False)
    jobs = [Job(Path(f"{number}.gif"), Path(f"out/{number}.png"), number or None) for number in range(2500)]
    assert [plan.add(job) for job in jobs] == [None] * 2500
    assert plan.add(Job(Path("other"), jobs[7].output)) == jobs[7]
    for number, job in enumerate(plan):  # changed while it is looped over
        plan.set_size(job, number % 100, 3) if number % 2 else plan.leave_out(job)
    left = [job._replace(height=number % 100, width=3) for number, job in enumerate(jobs) if number % 2]
    assert list(plan) == left
    assert len(plan) == 1250
    assert plan.pixels == sum(job.pixels for job in left)
    assert list(plan.largest_first()) == sorted(left, key=lambda job: -job.pixels)
    assert plan.largest().height == 99
    assert plan.most_of(150) == (625, 49, 3)


def test_memory_does_not_grow_with_the_number_of_files(tmp_path: Path) -> None:
    def peak(files: int) -> int:
        for number in range(files):
            path = tmp_path / str(files) / f"{number // 500}" / f"{number:06}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        tracemalloc.start()
        assert len(plan_jobs([str(tmp_path / str(files))], str(tmp_path / "out"))) == files
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    first = peak(2000)
    assert peak(4000) < first + 2000 * 50  # bytes a file; a list of pairs of paths took 1,400
