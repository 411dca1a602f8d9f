# Copyright 2026 The hf_robustft authors. Licensed under the Apache License, Version 2.0.
"""Names that would be markup, code or something else than they look, and a reader of pages that says what they have become."""

from html.parser import HTMLParser

HOSTILE = {
    "colon": '": x',
    "script": "<script>alert(1)</script>",
    "image": '<img src=x onerror="alert(1)">',
    "lines": "one\ntwo\r\n---\nlicense: mit\n# three",
    "emoji": "\N{THUMBS UP SIGN}\N{EMOJI MODIFIER FITZPATRICK TYPE-6} \N{MAN}\N{ZERO WIDTH JOINER}\N{WOMAN}",
    "long": "x" * 300,
    "words": "word " * 60,
    "jinja": "{{ x }} {% for a in b %} {# c #}",
    "link": "](javascript:alert(1)) [a](javascript:alert(1)) <javascript:alert(1)>",
    "bar": "a | b || c",
    "ticks": "` `` ``` ````",
    "list": "- a: b",
    "tag": "!!python/object/apply:os.system ['ls']",
    "anchor": "&a *a <<: {b: [c",
    "turned": "abc\u202edcba\u202c\u2066x\u2069\u200f",
    "control": "a\x00b\x07c\x1b[31md\x85e\u2028f\u2029g\x7f",
    "comment": "--> <!-- x --> <!--",
    "entity": "&lt;b&gt; &amp; &#60;script&#62;",
    "html": "</td></tr></table><h1 onclick=x>hi</h1>",
    "reference": "[a]: http://evil.example\n\n[a] ![b](http://evil.example/x.png)",
    "dollar": "$x$ \\(y\\) ~z~ ~~w~~ ==v==",
}
TAGS = set("h1 h2 h3 p ul ol li table thead tbody tr th td a img em strong code pre br hr".split())


class Reader(HTMLParser):
    """Collects tags, attributes and comments of a page."""

    def __init__(self, page: str):
        super().__init__(convert_charrefs=True)
        self.tags, self.attributes, self.comments, self.links, self.text = set(), set(), [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {(tag, name) for name, _ in attrs}
        self.links += [value for name, value in attrs if name in ("href", "src")]

    def handle_comment(self, data):
        self.comments.append(data)

    def handle_data(self, data):
        self.text.append(data)
