"""What is read back from a run's folder."""

from pathlib import Path

import pytest

from esrgan_lit.reports.runs import Run, read_curves


def test_curves_are_read_by_iteration_and_a_resumed_run_goes_on_where_it_started(tmp_path: Path) -> None:
    first, second = tmp_path / "1.csv", tmp_path / "2.csv"
    first.write_text("epoch,step,train/pixel,val/psnr_y\n0,0,0.5,\n0,9,,28.5\n0,10,0.4,\n")
    assert read_curves([first]) == {"train/pixel": [(0, 0.5), (10, 0.4)], "val/psnr_y": [(9, 28.5)]}
    second.write_text("epoch,step,train/pixel\n0,10,0.3\n")
    assert read_curves([first, second]) == {"train/pixel": [(0, 0.5), (10, 0.3)], "val/psnr_y": [(9, 28.5)]}


def test_a_log_that_a_kill_cut_short_is_read_as_far_as_it_is_whole(tmp_path: Path) -> None:
    log = tmp_path / "metrics.csv"
    whole = "epoch,step,train/pixel,learning_rate\n0,0,0.5,1e-4\n0,10,nan,1e-4\n"
    for end in ("", "0,2", "0,20,", "0,20,0.4,1e-", "x,y,z", "0,20,0.4,1e-4,5,6"):
        log.write_text(whole + end)
        curves = read_curves([log])
        assert curves["train/pixel"][0] == (0, 0.5)
        assert curves["learning_rate"][:2] == [(0, 1e-4), (10, 1e-4)]
    for content in (b"", b"\x00\xff\n1,2", b"epoch,step\n"):
        log.write_bytes(content)
        assert read_curves([log, tmp_path / "none.csv"]) == {}


@pytest.mark.parametrize(
    ("settings", "monitored", "best"),
    [
        ("trainer: {callbacks: {best: {monitor: val/lpips, mode: min}}}", "val/lpips", 19),
        ("trainer: {callbacks: {best: {monitor: val/psnr_y, mode: max}}}", "val/psnr_y", 29),
        ("stage: {validation: {rank_by: lpips}}", "val/rank", 9),  # of the release before
    ],
)
def test_the_best_validation_is_the_one_that_the_run_chose(
    tmp_path: Path, settings: str, monitored: str, best: int
) -> None:
    version = tmp_path / "csv" / "version_0"
    version.mkdir(parents=True)
    rank = "val/rank" in monitored
    rows = ["step,val/psnr_y,val/lpips,train/mine,train/pixel,train/real_logit" + (",val/rank" if rank else "")]
    for step, psnr, lpips, value in ((9, 28, 0.3, 3), (19, 29, 0.1, 2), (29, 30, "inf", 1)):
        rows.append(f"{step},{psnr},{lpips},5,4,1" + (f",{value}" if rank else ""))
    (version / "metrics.csv").write_text("\n".join(rows) + "\n")
    (version / "hparams.yaml").write_text(settings)
    run = Run(tmp_path)
    assert (run.monitor, run.best_at) == (monitored, best)
    assert run.figures["best/psnr_y"] == {9: 28, 19: 29, 29: 30}[best]
    assert [name for name in run.figures if name.startswith("loss/")] == ["loss/pixel", "loss/mine"]
