#!/usr/bin/env python
from mmhatnet.engine.cli import one_line_errors
from mmhatnet.finetune.command import main

if __name__ == '__main__':
    with one_line_errors():
        main()
