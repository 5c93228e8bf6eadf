#!/usr/bin/python3
"""Draws the demo's product pictures: one SVG for each product of a catalogue.

usage: demo/media.py CATALOGUE.json FOLDER
"""

import json
import pathlib
import sys
from xml.sax.saxutils import escape

# per category: background from, to, ink, and a drawing in a box of 200 x 200
STYLES = {
    "lighting": ("#fff4d6", "#f6d98b", "#5b4413",
                 '<path d="M60 90 L140 90 L118 40 L82 40 Z" fill="{i}"/><path d="M100 90 V160 M70 160 H130" {s}/>'
                 '<circle cx="100" cy="104" r="9" fill="#fff"/>'),
    "kitchen": ("#f7e3d4", "#e0a679", "#4a2413",
                '<circle cx="85" cy="100" r="48" fill="{i}"/><path d="M130 100 H180" {s}/>'
                '<circle cx="85" cy="100" r="34" fill="none" stroke="#fff" stroke-opacity=".35" stroke-width="3"/>'),
    "ceramics": ("#e3eef2", "#9dc0cc", "#1f4552",
                 '<path d="M60 60 H125 V125 Q125 145 105 145 H80 Q60 145 60 125 Z" fill="{i}"/>'
                 '<path d="M125 76 Q155 76 155 97 Q155 118 125 118" {s}/>'),
    "textiles": ("#f2e6ef", "#cfa3c3", "#512246",
                 '<rect x="50" y="55" width="100" height="90" rx="6" fill="{i}"/>'
                 '<path d="M50 75 H150 M50 95 H150 M50 115 H150" stroke="#fff" stroke-opacity=".4" stroke-width="5"/>'),
    "desk": ("#ece8e1", "#c0ad92", "#3c2f1e",
             '<rect x="45" y="50" width="110" height="70" rx="6" fill="{i}"/><path d="M100 120 V150 M70 150 H130" {s}/>'),
    "paper": ("#fbf7ea", "#ddd0a4", "#4a4016",
              '<rect x="62" y="42" width="80" height="112" rx="5" fill="{i}"/>'
              '<path d="M78 68 H126 M78 86 H126 M78 104 H110" stroke="#fff" stroke-opacity=".6" stroke-width="5"/>'),
    "outdoor": ("#e2efdf", "#98bd8d", "#1d4020",
                '<path d="M100 48 L160 148 H40 Z" fill="{i}"/><path d="M100 88 L124 148 H76 Z" fill="#fff" fill-opacity=".5"/>'),
    "audio": ("#e5e3f3", "#a49fd4", "#28225c",
              '<path d="M52 118 V100 A48 48 0 0 1 148 100 V118" {s}/><rect x="42" y="104" width="24" height="44" rx="9" '
              'fill="{i}"/><rect x="134" y="104" width="24" height="44" rx="9" fill="{i}"/>'),
    "care": ("#e3f3ee", "#93cbb8", "#124a3a",
             '<rect x="70" y="74" width="60" height="76" rx="12" fill="{i}"/><rect x="86" y="50" width="28" height="20" rx="4" '
             'fill="{i}"/><path d="M84 108 H116" stroke="#fff" stroke-opacity=".6" stroke-width="5"/>'),
    "play": ("#fde5e0", "#f0a493", "#6b1f14",
             '<rect x="50" y="104" width="46" height="46" rx="5" fill="{i}"/><rect x="104" y="104" width="46" height="46" rx="5" '
             'fill="{i}" fill-opacity=".75"/><path d="M100 50 L124 96 H76 Z" fill="{i}" fill-opacity=".9"/>'),
}


def picture(product):
    light, dark, ink, drawing = STYLES[product["category"]]
    stroke = f'fill="none" stroke="{ink}" stroke-width="9" stroke-linecap="round"'
    turn = int(product["external_id"].rpartition("-")[2]) % 7 * 4 - 12
    return f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 400 400" role="img" aria-label="{escape(product['title'])}">
<defs><linearGradient id="g" x2=".4" y2="1"><stop stop-color="{light}"/><stop offset="1" stop-color="{dark}"/></linearGradient></defs>
<rect width="400" height="400" fill="url(#g)"/>
<circle cx="200" cy="180" r="126" fill="#fff" fill-opacity=".35"/>
<g transform="translate(100 78) rotate({turn} 100 100)">{drawing.format(i=ink, s=stroke)}</g>
<text x="200" y="352" text-anchor="middle" font-family="Georgia, serif" font-size="22" fill="{ink}">{escape(product['title'])}</text>
<text x="200" y="378" text-anchor="middle" font-family="sans-serif" font-size="12" letter-spacing="3" fill="{ink}"
 fill-opacity=".7">{escape(product['brand'].upper())}</text>
</svg>
"""


def main(catalogue, folder):
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for product in json.loads(pathlib.Path(catalogue).read_text(encoding="utf-8")):
        (folder / pathlib.Path(product["thumbnail"]).name).write_text(picture(product), encoding="utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] in ("-h", "--help"):
        print(__doc__.strip())
        sys.exit(0 if sys.argv[1:2] in (["-h"], ["--help"]) else 2)
    main(*sys.argv[1:])
