"""The one rule that pairs files by name."""

import pytest

from esrgan_lit.data.pairing import match_names, pair_by_name

# High-resolution names and their partners, as data sets and people name them.
PAIRED = {
    "DIV2K": {"0001": "0001x4", "0010": "0010x4"},
    "SelfExSR": {"img_001_SRF_4_HR": "img_001_SRF_4_LR", "img_002_SRF_4_HR": "img_002_SRF_4_LR"},
    "results": {"baby": "baby_esrgan_0.8", "bird": "bird-SRResNet"},
    "the longest": {"baby": "baby_x4", "baby_2": "baby_2_esrgan"},
    "endings that are names": {"ax2": "ax2", "a": "ax4", "b_HR": "b_HRx4", "b": "b"},
    "only an ending": {"x4": "x4", "HR": "HR"},
}


@pytest.mark.parametrize("case", PAIRED)
def test_partners_are_found_by_name(case: str) -> None:
    names, partners = list(PAIRED[case]), list(PAIRED[case].values())[::-1]
    assert [partners[place] for place in pair_by_name(names, partners, "lr")] == list(PAIRED[case].values())


def test_what_belongs_to_none_or_to_one_already_is_told_apart() -> None:
    matches = match_names(["baby", "bird"], ["babyx4", "baby_again", "babylon", "birds"])
    assert matches == ([[0, 1], []], [2, 3])
    with pytest.raises(ValueError, match="without a partner bird; belonging to none babylon, birds; several for one b"):
        pair_by_name(["baby", "bird"], ["babyx4", "baby_again", "babylon", "birds"], "lr")
