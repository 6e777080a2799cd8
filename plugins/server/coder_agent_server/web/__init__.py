"""The pages: HTML around a few small modules of plain JavaScript and one style sheet, all served from here.

No bundler, no other host, no inline script. `static_files.py` serves ``static/``; `shell.py` is what every page shares.
"""
