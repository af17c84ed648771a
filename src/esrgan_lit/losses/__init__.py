"""The terms of ESRGAN's losses, unweighted (Wang et al. 2018, §3.2–3.4). Stages weigh, sum and log them.

A term is a ``torch.nn.Module`` called with (output, ground truth), RGB images (batch, 3, height, width) in [0, 1], that
returns a 0-dimensional tensor. One line adds it: ``+stage.losses.NAME={_target_: PACKAGE.CLASS}``.
"""
