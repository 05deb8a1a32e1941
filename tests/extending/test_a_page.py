"""A page from outside the package: one template and one function."""

import re

from fairseq_signals_ext.pages.rendering import render_page, write_page

TEMPLATE = """{% extends "base.html.j2" %}
{% from "pieces.html.j2" import bar, head %}
{% block style %}{{ source("toy.css") }}{% endblock %}
{% block body %}
<h1>{{ title }}</h1>
<table>{{ head(["Label", "Probability"]) }}
{% for label, probability in scores %}
<tr><th scope="row">{{ label }}</th><td>{{ bar(probability, threshold=0.5) }}</td></tr>
{% endfor %}
</table>
{% endblock %}
"""


def toy_page(folder, scores):
    return render_page("toy.html.j2", folder, title="Toy", scores=scores)


def test_a_page(tmp_path):
    (tmp_path / "toy.html.j2").write_text(TEMPLATE)
    (tmp_path / "toy.css").write_text("h1 { color: var(--mark); }")
    page = toy_page(tmp_path, [("atrial <b>fibrillation</b>", 0.75), ("{{ pacing }}", 0.125)])
    write_page(tmp_path / "toy.html", page)
    assert (tmp_path / "toy.html").read_text(encoding="utf-8") == page
    # its own style, after the one that all pages share
    assert page.index(".bar {") < page.index("h1 { color: var(--mark); }") < page.index("</style>")
    assert re.findall(r'<th scope="row">(.*?)</th>', page) == [
        "atrial &lt;b&gt;fibrillation&lt;/b&gt;",
        "{{ pacing }}",
    ]
    assert re.findall(r"width:([\d.]+)%.*?left:([\d.]+)%", page) == [("75.0", "50.0"), ("12.5", "50.0")]
    assert "<title>Toy</title>" in page and "<script" not in page and "http" not in page
