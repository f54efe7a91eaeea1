"""Draws this folder's pictures: `python docs/pictures/draw.py` makes an SVG of each text file.

A line of a text file is one of

    size WIDTH HEIGHT
    area  NAME  X Y WIDTH HEIGHT  TITLE                  a frame around boxes
    box   NAME  X Y WIDTH HEIGHT  TITLE | LINE | LINE    a part
    arrow FROM SIDE TO SIDE  LABEL                       sides: top, bottom, left, right
    both  FROM SIDE TO SIDE  LABEL                       an arrow with two heads

A side may carry an offset along it, as in ``bottom+40``. Empty lines and lines that begin with #
are skipped.
"""

import re
from html import escape
from pathlib import Path

FONT = "font-family='Helvetica, Arial, sans-serif'"
LINE_HEIGHT = 16
INK, FILL, FRAME, ARROW = "#1d2733", "#eef3f8", "#8fa1b3", "#44607c"


def draw(source: str) -> str:
    """Return the SVG of a picture's text.

    Raises:
        ValueError: a line is not understood.
    """
    places: dict[str, tuple[int, int, int, int]] = {}
    shapes: list[str] = []
    size = (800, 400)
    for number, line in enumerate(source.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        kind = words[0]
        if kind == "size":
            size = (int(words[1]), int(words[2]))
        elif kind in ("area", "box"):
            x, y, width, height = map(int, words[2:6])
            places[words[1]] = (x, y, width, height)
            text = " ".join(words[6:]).split(" | ")
            shapes.append(
                _area(places[words[1]], text[0]) if kind == "area" else _box(places[words[1]], text)
            )
        elif kind in ("arrow", "both"):
            start, end = _point(places[words[1]], words[2]), _point(places[words[3]], words[4])
            shapes.append(_arrow(start, end, " ".join(words[5:]), two_heads=kind == "both"))
        else:
            raise ValueError(f"line {number}: {kind!r} is not size, area, box, arrow or both")
    head = (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {size[0]} {size[1]}' "
        f"width='{size[0]}' height='{size[1]}' {FONT}>\n"
        f"<rect width='{size[0]}' height='{size[1]}' fill='white'/>\n"
        "<defs><marker id='head' viewBox='0 0 8 8' refX='7' refY='4' markerWidth='7' "
        "markerHeight='7' "
        f"orient='auto-start-reverse'><path d='M0 0 L8 4 L0 8 z' fill='{ARROW}'/></marker></defs>\n"
    )
    return head + "\n".join(shapes) + "\n</svg>\n"


def _area(place: tuple[int, int, int, int], title: str) -> str:
    x, y, width, height = place
    return (
        f"<rect x='{x}' y='{y}' width='{width}' height='{height}' rx='8' fill='none' "
        f"stroke='{FRAME}' stroke-dasharray='5 4'/>\n"
        f"<text x='{x + width - 12}' y='{y + height - 8}' text-anchor='end' font-size='12' "
        f"fill='{FRAME}'>{escape(title)}</text>"
    )


def _box(place: tuple[int, int, int, int], lines: list[str]) -> str:
    x, y, width, height = place
    outline = f"x='{x}' y='{y}' width='{width}' height='{height}' rx='6'"
    first = y + height / 2 - (len(lines) - 1) * LINE_HEIGHT / 2 + 4
    texts = [
        f"<text x='{x + width / 2}' y='{first + index * LINE_HEIGHT}' text-anchor='middle' "
        f"font-size='{11 if index else 13}' font-weight='{'normal' if index else 'bold'}' "
        f"fill='{INK}'>{escape(line)}</text>"
        for index, line in enumerate(lines)
    ]
    return "\n".join([f"<rect {outline} fill='{FILL}' stroke='{INK}'/>", *texts])


def _point(place: tuple[int, int, int, int], side: str) -> tuple[float, float]:
    x, y, width, height = place
    found = re.fullmatch(r"(top|bottom|left|right)([+-]\d+)?", side)
    if found is None:
        raise ValueError(f"{side!r} is not top, bottom, left or right, with an offset such as +40")
    along = int(found[2] or 0)
    if found[1] in ("top", "bottom"):
        return x + width / 2 + along, y + (height if found[1] == "bottom" else 0)
    return x + (width if found[1] == "right" else 0), y + height / 2 + along


def _arrow(
    start: tuple[float, float], end: tuple[float, float], label: str, *, two_heads: bool
) -> str:
    (x1, y1), (x2, y2) = start, end
    back = " marker-start='url(#head)'" if two_heads else ""
    upright = abs(x1 - x2) < abs(y1 - y2)
    anchor, dx, dy = ("start", 7, 4) if upright else ("middle", 0, -6)
    return (
        f"<line x1='{x1}' y1='{y1}' x2='{x2}' y2='{y2}' stroke='{ARROW}' stroke-width='1.5' "
        f"marker-end='url(#head)'{back}/>\n"
        f"<text x='{(x1 + x2) / 2 + dx}' y='{(y1 + y2) / 2 + dy}' text-anchor='{anchor}' "
        f"font-size='11' fill='{ARROW}'>{escape(label)}</text>"
    )


if __name__ == "__main__":
    for text in sorted(Path(__file__).parent.glob("*.txt")):
        text.with_suffix(".svg").write_text(draw(text.read_text()))
        print(f"drew {text.with_suffix('.svg').name}")
