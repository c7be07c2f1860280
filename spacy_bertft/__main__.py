"""`python -m spacy_bertft`: the command line, for launchers that run modules, such as torchrun."""

from spacy_bertft.cli import main

if __name__ == "__main__":
    main()
