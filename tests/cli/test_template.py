"""`--format` understands what people give to Docker's."""

import pytest

from kedge.cli.template import Template
from kedge.model.errors import InvalidInput

IMAGE = {
    "ID": "sha256:abc",
    "Size": "5MB",
    "Tags": ["a:1", "b:2"],
    "Config": {"Labels": {"x.y": "z", "b": "c"}, "Cmd": None},
    "Count": 3,
    "Empty": [],
    "Yes": True,
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{.ID}}", "sha256:abc"),
        ("{{ .ID }}: {{.Size}}", "sha256:abc: 5MB"),
        (r"{{.ID}}\t{{.Size}}\n", "sha256:abc\t5MB\n"),
        ("{{json .Tags}}", '["a:1","b:2"]'),
        ("{{.Tags | json}}", '["a:1","b:2"]'),
        ('{{join .Tags ", "}}', "a:1, b:2"),
        ("{{range .Tags}}<{{.}}>{{end}}", "<a:1><b:2>"),
        ("{{range .Tags}}{{$.ID}} {{end}}", "sha256:abc sha256:abc "),
        ("{{range .Empty}}x{{else}}none{{end}}", "none"),
        ("{{if .Yes}}y{{else}}n{{end}}", "y"),
        ("{{if .Empty}}y{{else if .Yes}}m{{else}}n{{end}}!", "m!"),
        ("{{with .Config}}{{json .Cmd}}{{end}}", "null"),
        ('{{index .Config.Labels "x.y"}}', "z"),
        ("{{index .Tags 1}}", "b:2"),
        ("{{.Config.Labels}}", "map[b:c x.y:z]"),
        ("{{.Tags}}", "[a:1 b:2]"),
        ("{{len .Tags}}", "2"),
        ("{{if eq .Count 3}}three{{end}}", "three"),
        ("{{if and .Yes (gt .Count 2)}}both{{end}}", "both"),
        ('{{upper .Size}} {{lower "ABC"}}', "5MB abc"),
        ('{{printf "%-6s|%q" .Size .ID}}', '5MB   |"sha256:abc"'),
        ("a {{- .Size -}} b", "a5MBb"),
        ("{{/* nothing */}}x", "x"),
        ("plain", "plain"),
        ("{{range .Config.Labels}}{{println .}}{{end}}", "c\nz\n"),
    ],
)
def test_a_template_renders(template: str, text: str) -> None:
    assert Template(template).render(IMAGE) == text


@pytest.mark.parametrize(
    "template",
    [
        "{{.ID",
        "{{if .ID}}",
        "{{end}}",
        "{{}}",
        "{{.Nope}}",
        "{{nope .ID}}",
        "{{.ID .Size}}",
        "{{(.ID}}",
        "{{index .Tags 9}}",
        "{{.ID.More}}",
        "{{join .Tags}}",
    ],
)
def test_a_template_that_cannot_be_read_is_an_error(template: str) -> None:
    with pytest.raises(InvalidInput):
        Template(template).render(IMAGE)
