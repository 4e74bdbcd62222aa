"""``python -m rmve``: the command line where no script is on the path."""

from rmve.cli import app

if __name__ == "__main__":
    app(prog_name="rmve")
