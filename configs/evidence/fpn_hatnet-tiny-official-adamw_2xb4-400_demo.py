# The quickstart as it was at first: also with AdamW, at its first rate.
_base_ = '../demo/fpn_hatnet-tiny_2xb4-400_demo.py'

model = dict(backbone=dict(init_cfg=None))
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=4e-4, weight_decay=0.05)
)
