# A segmentor of shapes on photographs, with a backbone pretrained on CIFAR-10.
_base_ = [
    '../_base_/models/fpn_hatnet-micro.py',
    '../_base_/datasets/demo_semantic.py',
    '../_base_/schedules/demo_muon_1200.py',
    '../_base_/mmseg_runtime.py',
]

train_dataloader = dict(batch_size=8)
default_hooks = dict(checkpoint=dict(interval=300), logger=dict(interval=10))
visualizer = dict(alpha=0.5)
