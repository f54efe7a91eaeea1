"""An adapter's own chat template: found as transformers finds it, and kept with the version."""

import json

import jinja2
import pytest
from transformers.utils.chat_template_utils import _compile_jinja_template

from cluster.adapters.adapter_limits import AdapterLimits
from cluster.adapters.adapter_store import ContentStore
from cluster.adapters.format.chat_template import MAX_TEMPLATE_BYTES, digest_of
from cluster.adapters.format.manifest import read_adapter_files, read_manifest
from cluster.adapters.sources import FolderSource
from cluster.adapters.validation.adapter_checks import validate_adapter
from cluster.adapters.validation.template_check import check_template
from cluster.errors import AdapterMalformed, AdapterTooLarge

OWN = "{% for m in messages %}### {{ m['role'] }}: {{ m['content'] }}\n{% endfor %}### assistant:"
FILE, TOKENIZER = "chat_template.jinja", "tokenizer_config.json"


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, None),
        ({FILE: OWN}, OWN),
        ({TOKENIZER: json.dumps({"chat_template": OWN})}, OWN),
        ({FILE: OWN, TOKENIZER: json.dumps({"chat_template": "other"})}, OWN),
        ({TOKENIZER: json.dumps({"model_max_length": 10})}, None),
        ({TOKENIZER: json.dumps({"chat_template": None})}, None),
        ({TOKENIZER: json.dumps({"chat_template": [{"name": "rag", "template": "x"}]})}, None),
        (
            {
                TOKENIZER: json.dumps(
                    {
                        "chat_template": [
                            {"name": "rag", "template": "x"},
                            {"name": "default", "template": OWN},
                        ]
                    }
                )
            },
            OWN,
        ),
    ],
)
def test_it_is_where_transformers_looks(tmp_path, write_adapter, files, found):
    folder = write_adapter(tmp_path)
    for name, text in files.items():
        (folder / name).write_text(text)
    assert read_adapter_files(folder).chat_template == found
    assert read_manifest(folder)[0].chat_template == (found and digest_of(found))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (FILE, "x" * (MAX_TEMPLATE_BYTES + 1), "at most"),
        (FILE, b"\xff", "UTF-8"),
        (TOKENIZER, json.dumps({"chat_template": "x" * (MAX_TEMPLATE_BYTES + 1)}), "at most"),
        (TOKENIZER, json.dumps({"chat_template": {"a": 1}}), "expected a string"),
        (TOKENIZER, '{"chat_template": "\\ud800"}', "not text"),
        (TOKENIZER, "{", "not JSON"),
    ],
)
def test_what_is_none_is_refused(tmp_path, write_adapter, name, content, says):
    folder = write_adapter(tmp_path)
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(AdapterMalformed, match=says):
        read_manifest(folder)


@pytest.mark.parametrize("template", ["{% for", "{{ x | nofilter }}", "{%" * 1000, "{{" * 500])
def test_what_does_not_compile_is_refused(tmp_path, write_adapter, base, template):
    folder = write_adapter(tmp_path)
    (folder / FILE).write_text(template)
    with pytest.raises(AdapterMalformed, match="chat template: expected one that compiles") as no:
        validate_adapter(folder, base, AdapterLimits())
    assert len(no.value.message) < 500 + len(str(tmp_path))


def test_a_program_that_takes_long_to_compile_is_refused():
    with pytest.raises(AdapterMalformed, match="words and signs"):
        check_template("x", "x{{y}}" * 10_000)


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'a' * 3000000000 }}",
        "{{ 3000000000 * 'a' }}",
        "{% set x = [0, 1] * (400000000 + 1) %}",
        "{% if ('a' * 1000) * 1000 * 1000 %}x{% endif %}",
        "{% macro f(x=2 ** (2 ** 33)) %}{% endmacro %}",
        "{{ 9 ** 99999999 }}",
        "{{ 'a' | center(2000000000) }}",
        "{{ '%0999999999d' % 1 }}",
        "{{ '%0999999999d' | format(1) }}",
        "{{ '%*d' % (999999999, 1) }}",
        "{{ '" + "a" * 9000 + "' | replace('a', '" + "b" * 9000 + "') }}",
        "{{ ('a' | replace('a', 'bbbb')) | replace('b', 'cccc') }}",
        "\n{{ ('" + "' + '".join(["a" * 100] * 200) + "') * (" + " + ".join(["999"] * 200) + ") }}",
    ],
    ids=lambda template: template[:30],
)
def test_what_computes_a_large_constant_while_it_compiles_is_refused(template):
    with pytest.raises(AdapterMalformed, match=r"chat template: line \d: expected constants"):
        check_template("x", template)


@pytest.mark.parametrize(
    "template",
    [
        "{{ '-' * 40 }}{{ '=' * n }}{{ 2 ** 10 }}{{ 'x' | center(80) }}{{ '%05d' % 3 }}",
        "{{ m | tojson(indent=4) }}{{ m.content | truncate(99999999) }}{{ n * 3000000000 }}",
        "{{ ['" + "', '".join(["word"] * 50) + "'] | join(', ') }}",
        "{{ '" + "long text\n" * 2000 + "' | replace('\n', ' ') }}",
        "{% filter upper %}x{% endfilter %}{{ 'ab' | trim }}{{ 7 % 2 }}{{ 2024 % 100 }}",
    ],
    ids=lambda template: template[:30],
)
def test_small_constants_are_no_reason_to_refuse(template):
    _compile_jinja_template(template)
    check_template("x", template)


async def test_two_versions_that_differ_in_it_alone_are_two(tmp_path, write_adapter, base):
    store = ContentStore(tmp_path / "store", AdapterLimits(), base)
    folder = write_adapter(tmp_path / "root" / "x")
    plain = await store.add(FolderSource(tmp_path / "root", "x"))
    (folder / FILE).write_text(OWN)
    own = await store.add(FolderSource(tmp_path / "root", "x"))
    assert plain.digest != own.digest
    assert (own.path / FILE).read_text() == OWN
    assert store.get(own.digest).manifest.chat_template == digest_of(OWN)
    store.verify(own.digest)
    (folder / FILE).write_text("x" * (MAX_TEMPLATE_BYTES + 1))
    with pytest.raises(AdapterTooLarge):
        await store.add(FolderSource(tmp_path / "root", "x"))


@pytest.mark.parametrize(
    "template",
    [
        OWN,
        "{% version %}{{ messages[0].content }}{% endgeneration %}",
        "{% for m in x %}{% if loop.first %}{% continue %}{% endif %}{% break %}{% endfor %}",
        "{{ raise_exception('no') }}{{ strftime_now('%Y') }}{{ messages | tojson(indent=2) }}",
        "{% set ns = namespace(a=1) %}{% set ns.a = 2 %}{%- macro f(x) -%}{%- endmacro %}",
        "{{ x | upper }}{% call f() %}{% endcall %}",
        "{% version %}",
        "{% endgeneration %}",
        "{{ x | nofilter }}",
        "{% include 'other' %}",
        "{% unknown %}",
        "{{ x.__class__ }}",
        "{% break %}",
    ],
)
def test_what_compiles_is_what_compiles_in_transformers(template):
    found = expected = True
    try:
        _compile_jinja_template(template)
    except (jinja2.TemplateError, SyntaxError):
        expected = False
    try:
        check_template("x", template)
    except AdapterMalformed:
        found = False
    assert found == expected
