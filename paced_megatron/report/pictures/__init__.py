"""Pictures of a report, one module each: they take numbers from `content.py` and a canvas, and draw.

Nothing here reads a file or works a number out. Open `canvas.py` first: it makes an SVG or a PNG of any of
them.
"""
