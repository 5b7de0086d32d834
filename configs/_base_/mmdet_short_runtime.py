# As mmdet_runtime.py, with a line in the log every 10 iterations.
_base_ = ['./import_mmhatnet.py', 'mmdet::_base_/default_runtime.py']

custom_imports = dict(imports=['mmhatnet'])
default_hooks = dict(
    checkpoint=dict(max_keep_ckpts=3, save_best='auto'),
    logger=dict(interval=10),
)
