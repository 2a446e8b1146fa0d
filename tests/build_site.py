"""A program: what `make docs` runs, with arguments of mkdocs."""

from mkdocs.__main__ import cli

if __name__ == "__main__":
    cli()
