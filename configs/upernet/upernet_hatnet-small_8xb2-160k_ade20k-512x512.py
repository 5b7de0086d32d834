_base_ = [
    '../_base_/models/upernet_hatnet-small.py',
    '../_base_/datasets/ade20k_512x512.py',
    '../_base_/schedules/ade20k_bs16_adamw_160k.py',
    '../_base_/mmseg_runtime.py',
]

# Save as often as it evaluates.
default_hooks = dict(checkpoint=dict(interval=16000))
