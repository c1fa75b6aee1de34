#!/usr/bin/env python3
"""The front door from a checkout: `python run_eval.py VERB` is the installed `nha-eval VERB`. Try `python run_eval.py
--help`.
"""

from nha_eval.cli import main

if __name__ == "__main__":
    main()
