"""Reads a report with the standard library, as a browser would: tables with their sort keys, addresses, scripts, the viewer's data."""

import base64
import gzip
import json
from html.parser import HTMLParser

import numpy as np

VOID = {"meta", "link", "input", "br", "img", "path", "rect"}
ADDRESSES = ("src", "href", "action", "data", "poster", "srcset", "xlink:href", "formaction", "background", "cite")


class ReadPage(HTMLParser):
    """tables: caption -> (columns, rows of (text, sort key)). addresses: what the page could load. texts: element -> its texts."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.tables, self.addresses, self.texts, self.scripts = {}, [], {}, []
        self.open, self.source = [], text
        self._row = self._key = None
        self._text = self._cell = ""
        self.feed(text)
        self.close()
        assert self.open == [], "every element is closed"

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.addresses += [given[name] for name in ADDRESSES if name in given and tag != "div"]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self._columns, self._rows = [], []
        elif tag == "tr":
            self._row = []
        elif tag in ("td", "th"):
            self._key, self._cell = given.get("data-key"), ""
        elif tag == "script":
            self.scripts.append((given, ""))
        self._text = ""

    def handle_startendtag(self, tag, attributes):
        self.addresses += [value for name, value in attributes if name in ADDRESSES]

    def handle_data(self, data):
        self._text += data
        if self.open and self.open[-1] in ("td", "th"):
            self._cell += data
        if self.open and self.open[-1] == "script":
            given, before = self.scripts[-1]
            self.scripts[-1] = (given, before + data)

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        assert self.open.pop() == tag, f"{tag} is closed in order"
        self.texts.setdefault(tag, []).append(self._text.strip())
        if tag == "caption":
            self._caption = self._text.strip()
        elif tag == "th" and self._key is None:
            self._columns.append(self._cell.strip())
        elif tag in ("td", "th"):
            self._row.append((self._cell, self._key))
        elif tag == "tr" and self._row:
            self._rows.append(self._row)
        elif tag == "table":
            self.tables[self._caption] = (self._columns, self._rows)

    @property
    def viewer(self):
        return next((json.loads(body) for given, body in self.scripts if given.get("id") == "viewer-data"), None)


def unpack(view):
    """Returns image, reference and prediction of a view of the viewer."""
    raw = np.frombuffer(gzip.decompress(base64.b64decode(view["data"])), np.uint8)
    return raw.reshape(3, *view["shape"])


def require_self_contained(page):
    """Assert that a page can request nothing: no address but anchors, an empty icon and its own pictures, no style that loads, no script
    from elsewhere.
    """
    assert [address for address in page.addresses if not address.startswith(("#", "data:image/png;base64,"))] == ["data:,"]
    assert "url(" not in page.source
    assert "@import" not in page.source
    assert "http://" not in page.source
    assert "https://" not in page.source
    assert all("src" not in given for given, _ in page.scripts)
    assert "default-src 'none'" in page.source
