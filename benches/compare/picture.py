"""A picture of curves as SVG: small panels side by side, cost against the number that is varied."""

from html import escape

WIDTH, HEIGHT, COLUMNS = 260, 190, 3
LEFT, RIGHT, TOP, BOTTOM = 42, 14, 34, 40
COLOURS = {"opencmg": "#1f6feb", "gateway": "#79b8ff", "bare": "#8a8f98"}
LEGEND = {"opencmg": "OpenCMG", "gateway": "its gateway alone", "bare": "bare chain"}
STYLE = "text{font:11px sans-serif;fill:#57606a}.title{font-weight:bold}.grid{stroke:#d0d7de;stroke-width:.5}"


def step(top):
    """A round distance of grid lines, for about four of them."""
    size = 1.0
    while size * 4 < top:
        size *= 10
    return next((size / part for part in (10, 5, 4, 2) if size / part * 5 >= top), size)


def panel(measured, x, y):
    """One curve: values evenly spaced, cost from zero up."""
    curve = measured.curve
    lines = {name: measured.medians(name) for name in measured.series}
    grid = step(max(max(line.values()) for line in lines.values()))
    top = grid * (1 + int(max(max(line.values()) for line in lines.values()) // grid))
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    at = {value: LEFT + wide * index / max(1, len(curve.values) - 1) for index, value in enumerate(curve.values)}
    height = lambda cost: TOP + high * (1 - cost / top)  # noqa: E731
    out = [f'<g transform="translate({x},{y})">', f'<text class="title" x="{LEFT}" y="16">{escape(curve.title)}</text>']
    for index in range(int(top / grid + 0.5) + 1):
        level = height(index * grid)
        out.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{level:.1f}" y2="{level:.1f}"/>')
        out.append(f'<text x="{LEFT - 6}" y="{level + 4:.1f}" text-anchor="end">{index * grid:g}</text>')
    for value, place in at.items():
        out.append(f'<text x="{place:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{value:,}</text>')
    for name, line in lines.items():
        points = " ".join(f"{at[value]:.1f},{height(cost):.1f}" for value, cost in line.items())
        out.append(f'<polyline points="{points}" fill="none" stroke="{COLOURS[name]}" stroke-width="2"/>')
        for value, cost in line.items():
            title = f"<title>{LEGEND[name]}, {value:,}: {cost:.1f} µs</title>"
            circle = f'<circle cx="{at[value]:.1f}" cy="{height(cost):.1f}" r="3.5" fill="{COLOURS[name]}">{title}</circle>'
            out.append(circle)
    return "\n".join([*out, "</g>"])


def picture(curves, note):
    """The whole picture as text."""
    rows = -(-len(curves) // COLUMNS)
    wide, high = WIDTH * COLUMNS, HEIGHT * rows + 58
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" width="{wide}" height="{high}">',
        f'<style>{STYLE}</style><rect width="{wide}" height="{high}" fill="#fff"/>',
        f'<text class="title" x="{LEFT}" y="20">CPU µs a request, 1 KiB GET with client certificates</text>',
    ]
    for index, (name, colour) in enumerate(COLOURS.items()):
        place = wide - 310 + index * 90 + (30 if index > 1 else 0)
        out.append(f'<rect x="{place}" y="12" width="12" height="4" fill="{colour}"/>')
        out.append(f'<text x="{place + 17}" y="20">{LEGEND[name]}</text>')
    for index, measured in enumerate(curves):
        out.append(panel(measured, index % COLUMNS * WIDTH, 30 + index // COLUMNS * HEIGHT))
    out.append(f'<text x="{LEFT}" y="{high - 10}">{escape(note)}</text>')
    return "\n".join([*out, "</svg>\n"])
