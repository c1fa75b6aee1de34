"""`python -m nha_eval VERB`: the command line where its program is not on the path, as in a notebook."""

from nha_eval.cli import main

if __name__ == "__main__":
    main()
