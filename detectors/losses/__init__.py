"""The losses. Each returns named, weighted terms whose sum is the loss; `statistics` is for the log.

Their options are independent of one another. conf/loss/*.yaml sets them as the originals do; docs/yolov2.md
and docs/ssd.md compare them.
"""
