"""A bar for each row: how many times the peer it is; the line is 1."""


def bars(title, rows):
    """rows: (label, ratio, good). The text of an SVG."""
    height, top, width, left, scale = 26, 46, 820, 310, 200
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{top + height * len(rows) + 20}" font-family="sans-serif" font-size="12">',
           '<rect width="100%" height="100%" fill="white"/>',
           f'<text x="10" y="20" font-size="15">{title}</text>']
    for i, (label, ratio, good) in enumerate(rows):
        y, w = top + i * height, min(ratio, 2.3) * scale
        out.append(f'<text x="10" y="{y + 14}">{label}</text>')
        out.append(f'<rect x="{left}" y="{y}" width="{w:.1f}" height="18" fill="{"#2b8a3e" if good else "#c92a2a"}"/>')
        out.append(f'<text x="{left + w + 6:.1f}" y="{y + 14}">{ratio:.2f}</text>')
    x = left + scale
    out.append(f'<line x1="{x}" y1="{top - 8}" x2="{x}" y2="{top + height * len(rows)}" stroke="#333" stroke-dasharray="4 3"/></svg>')
    return "\n".join(out)
