"""``python -m erarec`` is the command line."""

from erarec.cli import app

app(prog_name="erarec")
