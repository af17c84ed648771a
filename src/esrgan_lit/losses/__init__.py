"""The terms of ESRGAN's losses, unweighted (Wang et al. 2018, §3.2–3.4). Stages weigh, sum and log them."""
