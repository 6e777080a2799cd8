"""Why does this path carry the packets, and what would make it direct? Pure: no I/O, no clock.

Read first: `situation.py` (what is judged, and the answer), then `judge.py`. `model.py` knows which networks are
direct; `causes.py` and `fixes.py` are the stable words, `document.py` their JSON.
"""
