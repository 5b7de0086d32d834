# From Sec. 4.3 of the paper: AdamW, lr 1e-4 divided by 10 after epochs 8 and
# 11 of 12, batch 16. The paper follows the settings of PVT, from which we take
# the rest: weight decay 1e-4, mmdetection's warm-up over 500 iterations, no
# clipping.
_base_ = 'mmdet::_base_/schedules/schedule_1x.py'

optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, weight_decay=1e-4)
)
