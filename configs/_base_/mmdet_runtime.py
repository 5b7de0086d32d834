_base_ = ['./import_mmhatnet.py', 'mmdet::_base_/default_runtime.py']

default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best='auto'))
