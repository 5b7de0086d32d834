# mmsegmentation tests with the shorter side at 512 pixels, as the paper says.
# PVT also rounds the sides to multiples of 32, which HAT-Net does not need.
_base_ = ['../import_mmhatnet.py', 'mmseg::_base_/datasets/ade20k.py']

train_dataloader = dict(batch_size=2)
