"""``python -m iterand_compress.cli``: the command line without its script, for launchers like torchrun."""

from .app import main

if __name__ == "__main__":
    main()
